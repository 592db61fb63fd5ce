"""Accounts, devices, sign-in, spaces and tickets.

Other rooms may import ``tokens`` and ``keys`` alone, which are pure: no FastAPI, asyncpg or argon2.
"""
