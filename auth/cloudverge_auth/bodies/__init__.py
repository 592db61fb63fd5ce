"""What auth's HTTP takes and gives, as pydantic models, one module per subject: every length is bounded."""
