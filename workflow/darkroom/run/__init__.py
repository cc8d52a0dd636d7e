"""What a run does around Snakemake: planning, sources and pins, shared models, beginning and end.

Takes the configuration and what the disk holds. Gives the rule files the inputs, params and paths they ask for.
Never imports the code that converts, renders or serves.
"""
