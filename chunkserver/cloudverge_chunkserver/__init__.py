"""The chunkserver: stores chunks on disk, checks tickets and checksums, forwards along the chain, reports."""
