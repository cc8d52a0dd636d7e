"""Fetching from Civitai, the Hub or a URL: what is here already is used, what isn't is downloaded, and both are pinned.

What is here is used without asking anybody. Else the source is asked what it has, its files are downloaded into the
store, and the destination becomes another name of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from darkroom.config import FetchConfig
from darkroom.errors import CheckpointError, InputError, ModelError, OfflineError
from darkroom.sources.downloading import Job
from darkroom.sources.downloads import Downloads
from darkroom.sources.lock import read_lock, record_receipt
from darkroom.sources.placing import place_file, place_folder
from darkroom.sources.progress import Progress
from darkroom.sources.receipt import FetchReceipt
from darkroom.sources.wanted import Places, Wanted

OFFLINE_VARIABLE = "DARKROOM_OFFLINE"


def fetch_remote(
    wanted: Wanted,
    dest: Path,
    *,
    places: Places,
    options: FetchConfig,
    update: bool,
    progress: Progress,
    check: Callable[[Path], object],
) -> FetchReceipt:
    """Make `dest` the file or Diffusers folder that `wanted` names, and record in the lock file which bytes it is.

    With `update` the source is asked even if everything is here, and the lock file's entry is no bound.
    Raises what `Transfer.run`, resolving and `check` raise, HashError (E-HASH) for other bytes than configuration or
    lock file name, OfflineError (E-OFFLINE) if something would have to be fetched. What was at `dest` stays then.
    """
    locked = None if update or places.lock is None else read_lock(places.lock).get(wanted.name)
    store = Downloads(places.downloads)
    text = wanted.reference.text
    with store.claim_source(wanted.name, lambda: progress.say("somebody else is fetching it, waiting")):
        job = Job(wanted, store, locked, places, options, progress)
        before = store.record(wanted.name)
        if before is not None and not update and job.accepts(before.receipt) and store.is_whole(before.receipt):
            record = before
        elif options.offline or os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0"):
            what = "is not here, and the network isn't to be used"
            raise OfflineError("source", text, what, "run it once without --offline, or copy it here and give its path")
        else:
            record = job.download(before if update else None)
        receipt = record.receipt
        store.write_record(wanted.name, record)
        try:
            if receipt.files is None:
                place_file(store.path(receipt.sha256), dest, check)
            else:
                place_folder({path: store.path(file.sha256) for path, file in receipt.files.items()}, dest, text)
        except (CheckpointError, ModelError, InputError):
            store.forget_record(wanted.name)  # it isn't what it should be: the next run asks what is there by then
            raise
        if places.lock is not None:
            record_receipt(places.lock, wanted.name, receipt)
    return receipt
