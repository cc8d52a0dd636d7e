"""Makes a contact sheet for each prompt sheet, the grids of studies, and one gallery of all pictures.

REQUIRED INPUTS: the pictures.
OUTPUTS:         results/SHEET/contact-sheet.png, results/index.html and results/manifest.jsonl. results/thumbnails/ is a
                 cache that both rules share. Of a study results/SHEET/grid.png, and others for its table's other pages.
"""


rule make_contact_sheet:
    input:
        pictures=get_pictures,
    output:
        image=update("results/{sheet}/contact-sheet.png"),  # a job that fails leaves the old one
    log:
        "logs/gallery/{sheet}.contact-sheet.log",
    localrule: True  # it takes seconds: not worth a cluster job
    conda:
        "../../envs/darkroom.yaml"
    params:
        digest=get_digest,
        revision=revisions.GALLERY,
        plan=lambda wildcards, output: str(PLAN_FILE),
    message:
        "contact sheet of {wildcards.sheet}"
    shell:
        "darkroom contact-sheet {wildcards.sheet:q} "
        "--plan {params.plan:q} "
        "--output {output.image:q} "
        "--log {log:q}"


rule make_grid:
    input:
        pictures=get_grid_pictures,
    output:
        image=update("results/{sheet}/{grid}.png"),  # a job that fails leaves the old one
    log:
        "logs/gallery/{sheet}.{grid}.log",
    wildcard_constraints:
        grid=one_of(sorted({stem for grids in plan.grids.values() for stem in grids.by_stem})),
    localrule: True  # it takes seconds: not worth a cluster job
    conda:
        "../../envs/darkroom.yaml"
    params:
        digest=get_grid_digest,
        revision=revisions.GRID,
        plan=lambda wildcards, output: str(PLAN_FILE),
    message:
        "{wildcards.grid} of {wildcards.sheet}"
    shell:
        "darkroom grid {wildcards.sheet:q} " "--plan {params.plan:q} " "--output {output.image:q} " "--log {log:q}"


rule build_gallery:
    input:
        sheets=get_contact_sheets,
    output:
        page=update("results/index.html"),
        manifest=update("results/manifest.jsonl"),
    log:
        "logs/gallery/index.log",
    localrule: True  # it takes seconds: not worth a cluster job
    conda:
        "../../envs/darkroom.yaml"
    params:
        digest=get_digest,
        revision=revisions.GALLERY,
        plan=lambda wildcards, output: str(PLAN_FILE),
    message:
        "gallery"
    shell:
        "darkroom gallery " "--plan {params.plan:q} " "--log {log:q}"
