"""Darkroom, run from its repository: snakemake --cores 1 results/"""


include: "workflow/Snakefile"


rule make_default:  # of a Snakefile that is included, Snakemake ignores the default target
    input:
        get_pictures,
    message:
        results_message
