"""Validates the configuration, plans the pictures, and holds the input and params functions of all rules."""

import re

from darkroom import revisions
from darkroom.cli.command import main
from darkroom.request.picture_revision import render_revision, stage_revision
from darkroom.request.stages import STAGES
from darkroom.run.lifecycle import lifecycle_of
from darkroom.run.plan import (
    PLAN_FILE,
    exit_on_error,
    load_plan,
    prepare_environment,
    tune_garbage_collection,
)
from darkroom.run.snakemake_api import keep_signatures
from darkroom.run.stage_jobs import mark_inputs

tune_garbage_collection()

plan = load_plan(config, this_run)
lifecycle = lifecycle_of(plan, this_run, main)

prepare_environment(this_run)


def start():
    """Before a run's first job. Where this workflow is a module of another, that one's onstart calls it."""
    lifecycle.start()


onstart:
    start()


def fail():
    """After a run in which jobs failed. Where this workflow is a module of another, that one's onerror calls it."""
    lifecycle.fail()


onerror:
    fail()


this_run.start_module(start, fail)


def one_of(names):
    """The wildcard constraint that these names match; nothing matches it if there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    checkpoint=one_of(plan.config.checkpoints),
    vae=one_of(plan.config.vaes),
    lora=one_of(plan.sources.stems("loras")),
    embedding=one_of(plan.sources.stems("embeddings")),
    score=one_of(plan.sources.stems("scores")),
    upscaler=one_of(plan.sources.stems("upscalers")),
    controlnet=one_of(plan.sources.stems("controlnets")),
    sheet=one_of(plan.sheets),
    picture=r"[a-z0-9][a-z0-9_.-]*",
    seed=r"[0-9]+",
    staged=rf"[a-z0-9][a-z0-9_.-]*\.[0-9]+-(?:{one_of(STAGES)})",


def get_kind(wildcards):
    """checkpoint, vae, lora, embedding, upscaler, controlnet or score."""
    return plan.sources.kind(wildcards)


def get_pin(wildcards):
    """The pin of a remote source, which is its fetch's only input; a local source has none."""
    lifecycle.begin()
    return plan.sources.pin(wildcards)


def get_source(wildcards, output):
    """A source's path or address. It takes `output` so that a change of path alone fetches nothing again."""
    return plan.sources.source(wildcards)[0]


def get_source_sha256(wildcards):
    """The SHA256 of a local source now; None for a remote one, whose pin holds it."""
    return plan.sources.source(wildcards)[1].sha256


def get_parameterization(wildcards):
    """The parameterization that a source's sidecar gives; it goes into the receipt."""
    return plan.sources.source(wildcards)[1].parameterization


def get_fetch_flags(wildcards, output):
    return plan.sources.fetch_flags(wildcards)


def get_fetched(wildcards):
    lifecycle.begin()
    return plan.sources.fetched(wildcards.checkpoint)


def get_receipts(wildcards):
    lifecycle.begin()
    return plan.sources.receipts(wildcards.checkpoint)


def get_conversion(wildcards):
    """Everything that decides a conversion in addition to the receipts."""
    return plan.sources.conversion(wildcards.checkpoint)


def get_conversion_options(wildcards, output):
    return plan.checkpoint(wildcards.checkpoint)


def get_conversion_flags(wildcards, output):
    return plan.sources.conversion_flags(wildcards.checkpoint)


def get_verified(wildcards):
    """The receipt of the model whose engine renders a picture: of its own, or of its last stage's."""
    lifecycle.begin()
    with exit_on_error():
        lifecycle.results.check_picture(plan.picture(wildcards))
    return plan.verified(wildcards)[0]


def get_other_models(wildcards):
    """The receipts of the other models that the stages before a picture's last one are rendered with."""
    return plan.verified(wildcards)[1:]


def get_asset_receipts(wildcards):
    """The receipts of the LoRAs, embeddings and VAE that one picture uses."""
    lifecycle.begin()
    with exit_on_error():
        return plan.asset_receipts(wildcards)


def get_request(wildcards):
    """Everything that decides a picture, as JSON."""
    return plan.picture(wildcards).request.to_json()


def get_render_revision(wildcards):
    return render_revision(plan.picture(wildcards).request)


def get_engine(wildcards, output):
    """The model, how and where to render, and the cell. Takes `output`: another device or label renders nothing again."""
    latent = output.get("latent")
    kept = plan.kept_path(wildcards) if this_run.is_remote else None
    flags = [*plan.engine_flags, *plan.study_flags(wildcards), *(["--kept", kept] if kept else [])]
    flags += ["--latent", latent, *plan.latent_flags(wildcards)] if latent else []
    flags += plan.given_pictures(wildcards)
    return [plan.model_dir(plan.picture(wildcards).renderer), *flags]


def get_before(wildcards):
    """What a stage is applied to, if that is made by a job: as ancient where the stage itself has nothing to do."""
    lifecycle.begin()
    job, receipts = plan.stage_job(wildcards), plan.all_receipts(wildcards)
    with exit_on_error():
        is_done = lifecycle.results.is_stage_done(job, plan.stage_params(job), receipts)
        if is_done and lifecycle.stay(plan.made_with(wildcards)):
            return mark_inputs(job, ancient, receipts[0])
    return job.inputs


def get_stage_revision(wildcards):
    return stage_revision(plan.picture(wildcards).request)


def get_stage_options(wildcards, output):
    """What goes into a stage. Takes `output`: a picture that was moved renders nothing again, its bytes are in the request."""
    return plan.stage_job(wildcards).options


def get_render_priority(wildcards):
    return plan.priority(wildcards)


def get_pictures(wildcards):
    """The pictures of one sheet; without the wildcard `sheet` everything in results/ that a run promises."""
    lifecycle.begin()
    with exit_on_error():
        lifecycle.results.check_pictures(wildcards.get("sheet"))
    pictures = plan.paths(wildcards.get("sheet"))
    if "sheet" in wildcards.keys():
        return pictures
    pages = [*get_contact_sheets(wildcards), *plan.grid_paths(), *get_study_pages(wildcards)]
    encoded = get_encoded(wildcards)
    return [*pictures, *encoded, *get_scores(wildcards), *pages, "results/index.html", "results/manifest.jsonl"]


def get_encoded(wildcards):
    """The files beside the pictures of one sheet, or of all, in other formats or signed; none if none are configured."""
    lifecycle.begin()
    paths = plan.encoded.of_sheet(wildcards.get("sheet"))
    with exit_on_error():
        for path in paths:
            lifecycle.results.check_encoded(path)
    return [f"results/{path}" for path in paths]


def get_encode_settings(wildcards):
    """Everything that decides an encoded file in addition to its picture, as JSON."""
    with exit_on_error():
        return plan.encoded.settings


def get_encode_options(wildcards, output):
    """How a picture is encoded, and with what it is signed. Takes `output`: where a certificate lies decides nothing."""
    return plan.encoded.options


def get_contact_sheets(wildcards):
    """The contact sheets of all sheets."""
    lifecycle.begin()
    with exit_on_error():
        lifecycle.results.check_gallery()
    return [f"results/{sheet}/contact-sheet.png" for sheet in plan.sheets]


def get_study_pages(wildcards):
    """What a run makes of the pictures of one sheet, if it is a study, or of all studies."""
    sheet = wildcards.get("sheet")
    studies = [study for study in plan.studies if sheet in (None, study)]
    return [f"results/{study}/{name}" for study in studies for name in ("study.csv", "study.html")]


def get_study_pictures(wildcards):
    """The pictures of one study."""
    lifecycle.begin()
    with exit_on_error():
        lifecycle.results.check_study(wildcards.sheet)
    return get_pictures(wildcards)


def get_study_tables(wildcards):
    """The pages of all studies, which the gallery has links to."""
    return [f"results/{study}/study.html" for study in plan.studies]


def get_study_csv(wildcards):
    """The numbers of one study."""
    lifecycle.begin()
    with exit_on_error():
        lifecycle.results.check_study_page(wildcards.sheet)
    return f"results/{wildcards.sheet}/study.csv"


def get_grid_pictures(wildcards):
    """The pictures of one grid."""
    lifecycle.begin()
    with exit_on_error():
        grids = plan.grids_of_sheet(wildcards.sheet)
        shown = grids.shown(grids.find(wildcards.grid))
        lifecycle.results.check_pictures(wildcards.sheet)
    return [f"results/{picture.path}" for picture in shown]


def get_grid_digest(wildcards):
    """Everything that a grid shows besides its pictures' pixels."""
    return plan.grids_of_sheet(wildcards.sheet).digest(wildcards.grid)


def get_scored_picture(wildcards):
    """The picture that a job scores."""
    lifecycle.begin()
    with exit_on_error():
        picture = plan.picture(wildcards)
        lifecycle.results.check_scores(wildcards.sheet, picture)
    return f"results/{picture.path}"


def get_score_receipts(wildcards):
    """The receipts of all models that score pictures."""
    return [plan.sources.asset_receipt("scores", name) for name in plan.config.scores]


def get_score_options(wildcards, output):
    """Where the models are, and the request where the picture's metadata has no prompts. Neither changes the scores."""
    request = [] if plan.config.metadata.prompt else ["--request", plan.picture(wildcards).request.to_json()]
    return [f"{plan.models_dir}/scores", *request]


def get_scorers(wildcards):
    """How pictures are scored, as JSON; the receipts say by which bytes."""
    return plan.scorers


def get_scores(wildcards):
    """The scores of one sheet's pictures, or of all; none without models for them."""
    return plan.score_paths(wildcards.get("sheet"))


def get_usable(wildcards):
    """Everything that pictures can be rendered and scored with."""
    lifecycle.begin()
    return plan.sources.usable()


def get_digest(wildcards):
    return plan.digest(wildcards.get("sheet"))


keep_signatures([each for name, each in list(globals().items()) if name.startswith("get_")])
