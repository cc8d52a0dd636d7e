"""Running the workflow's jobs on a cluster: submitting them, asking how they are, keeping what they finished."""
