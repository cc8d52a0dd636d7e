"""Throwing broken files at the parsers that read what comes from outside."""
