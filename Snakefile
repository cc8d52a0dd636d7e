"""Darkroom, run from its repository: snakemake --cores 1 results/"""


include: "workflow/Snakefile"
