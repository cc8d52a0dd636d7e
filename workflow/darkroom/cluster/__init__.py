"""The workflow's jobs on a cluster: submitting them, asking for their state, keeping the pictures of earlier attempts.

Takes job scripts and job ids from Snakemake. Gives job ids and states. Never renders, and imports nothing but the
standard library and Darkroom modules that don't either: each job and each poll starts a process.
"""
