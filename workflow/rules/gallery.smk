"""Makes a contact sheet for each prompt sheet, and one gallery of all pictures.

REQUIRED INPUTS: the pictures.
OUTPUTS:         results/SHEET/contact-sheet.png, results/index.html and results/manifest.jsonl. results/thumbnails/ is a
                 cache that both rules share.
"""


localrules:  # they take seconds: not worth a cluster job
    make_contact_sheet,
    build_gallery,


rule make_contact_sheet:
    input:
        pictures=get_pictures,
    output:
        image="results/{sheet}/contact-sheet.png",
    log:
        "logs/gallery/{sheet}.contact-sheet.log",
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


rule build_gallery:
    input:
        sheets=expand(rules.make_contact_sheet.output.image, sheet=plan.sheets),
    output:
        page="results/index.html",
        manifest="results/manifest.jsonl",
    log:
        "logs/gallery/index.log",
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
