"""Makes a contact sheet for each prompt sheet, the numbers of each study, and one gallery of all pictures.

REQUIRED INPUTS: the pictures.
OUTPUTS:         results/SHEET/contact-sheet.png, of a study also results/SHEET/study.csv; results/index.html and
                 results/manifest.jsonl. results/thumbnails/ is a cache that these rules share.
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


rule measure_study:
    input:
        pictures=get_study_pictures,
        contact_sheet="results/{sheet}/contact-sheet.png",
        scores=get_scores if plan.config.scores else [],
    output:
        table=update("results/{sheet}/study.csv"),
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


rule build_gallery:
    input:
        sheets=get_contact_sheets,
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
