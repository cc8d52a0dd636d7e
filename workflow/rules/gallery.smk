"""Makes a contact sheet for each prompt sheet, grids, numbers and the page of each study, and one gallery of all pictures.

REQUIRED INPUTS: the pictures.
OUTPUTS:         results/SHEET/contact-sheet.png; of a study also results/SHEET/grid.png, others for its table's other pages,
                 study.csv and study.html; results/index.html and results/manifest.jsonl. results/thumbnails/ is a cache that
                 these rules share. `snakemake --report` holds contact sheets, grids and study.csv; the HTML pages would have
                 no pictures there.
"""


rule make_contact_sheet:
    input:
        pictures=get_pictures,
    output:
        image=report(
            update("results/{sheet}/contact-sheet.png"),  # a job that fails leaves the old one
            caption="../report/contact-sheet.rst",
            category="{sheet}",
            labels={"page": "contact sheet"},
        ),
    log:
        "logs/gallery/{sheet}.contact-sheet.log",
    localrule: True  # it takes seconds: not worth a cluster job
    conda:
        "../../envs/darkroom.yaml"
    params:
        digest=get_digest,
        revision=revisions.CONTACT_SHEET,
        plan=lambda wildcards, output: str(PLAN_FILE),
    message:
        "contact sheet of {wildcards.sheet}"
    shell:
        "darkroom contact-sheet {wildcards.sheet:q} "
        "--plan {params.plan:q} "
        "--output {output.image:q} "
        "--log {log:q}"


rule measure_study:
    input:
        pictures=get_study_pictures,
        contact_sheet="results/{sheet}/contact-sheet.png",
        scores=get_scores if plan.config.scores else [],
    output:
        table=report(
            update("results/{sheet}/study.csv"),
            caption="../report/study-numbers.rst",
            category="{sheet}",
            labels={"page": "numbers of the study (CSV)"},
        ),
    log:
        "logs/gallery/{sheet}.study.log",
    wildcard_constraints:
        sheet=one_of(plan.studies),
    localrule: True  # a tenth of a second a new picture: not worth a cluster job
    conda:
        "../../envs/darkroom.yaml"
    params:
        digest=get_digest,
        revision=revisions.MEASURE,
        plan=lambda wildcards, output: str(PLAN_FILE),
    message:
        "numbers of {wildcards.sheet}"
    shell:
        "darkroom measure {wildcards.sheet:q} " "--plan {params.plan:q} " "--output {output.table:q} " "--log {log:q}"


rule make_study_page:
    input:
        table=get_study_csv,
        contact_sheet="results/{sheet}/contact-sheet.png",
    output:
        page=update("results/{sheet}/study.html"),
    log:
        "logs/gallery/{sheet}.study-page.log",
    wildcard_constraints:
        sheet=one_of(plan.studies),
    localrule: True  # it takes seconds: not worth a cluster job
    conda:
        "../../envs/darkroom.yaml"
    params:
        digest=get_digest,
        revision=revisions.STUDY_PAGE,
        plan=lambda wildcards, output: str(PLAN_FILE),
    message:
        "page of {wildcards.sheet}"
    shell:
        "darkroom study-page {wildcards.sheet:q} " "--plan {params.plan:q} " "--output {output.page:q} " "--log {log:q}"


rule make_grid:
    input:
        pictures=get_grid_pictures,
    output:
        image=report(
            update("results/{sheet}/{grid}.png"),  # a job that fails leaves the old one
            caption="../report/grid.rst",
            category="{sheet}",
            labels={"page": "{grid}"},
        ),
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
        studies=get_study_tables,
        scores=get_scores if plan.config.scores else [],
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
