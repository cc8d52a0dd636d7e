"""Darkroom: fetch, convert, verify and render Stable Diffusion XL checkpoints.

    snakemake --cores 1 results/

The configuration is config/config.yaml, explained in config/README.md.
"""

from snakemake.utils import min_version

from darkroom.run.plan import check_config_files
from darkroom.run.snakemake_api import SnakemakeRun

min_version("9.27")
this_run = SnakemakeRun(workflow)
check_config_files(this_run.config_files, default="config/config.yaml")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/convert.smk"
include: "workflow/rules/verify.smk"
include: "workflow/rules/render.smk"
include: "workflow/rules/gallery.smk"


rule make_results:
    name:
        "results/"
    default_target: True
    input:
        get_pictures,
        rules.build_gallery.output.page,


rule make_results_without_slash:
    name:
        "results"
    input:
        get_pictures,
        rules.build_gallery.output.page,


rule make_models:
    name:
        "models/"
    input:
        get_usable,


for sheet in plan.sheets:

    rule:
        name:
            f"results/{sheet}/"
        input:
            lambda wildcards, sheet=sheet: get_pictures({"sheet": sheet}),
            f"results/{sheet}/contact-sheet.png",
