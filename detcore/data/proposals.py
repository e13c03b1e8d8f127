"""Proposals for a data set: read, held against its images, shared with its workers."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from detcore.data.shared import share_with_worker
from detcore.errors import CheckpointError, DataError
from detcore.structures.proposals import (
    ProposalTable,
    image_key,
    proposals_of_content,
    read_proposals,
)
from detcore.weights.reader import open_regular, read_weights_file

PICKLES = (".pkl", ".pickle")


class SharedProposals(ProposalTable):
    """Proposals whose memory all workers share."""

    def __reduce__(self) -> tuple[Any, ...]:
        """While a worker is started with `spawn`, hand over the arrays' memory instead of a copy."""
        columns = tuple(getattr(self, field.name) for field in fields(self))
        return share_with_worker(self) or (type(self), columns)


def load_proposals(path: str | Path) -> SharedProposals:
    """Read a file of proposals: ours (``.npz``, ``.json``) or MMDetection's (``.pkl``).

    Pickles are read by the reader of weight files, which restores numbers and names of known classes and runs
    nothing; it knows protocol 2, in which MMDetection and `DumpProposals` write them.

    Raises:
        DataError: The file cannot be read, or holds something else.
    """
    suffix = Path(path).suffix
    table = _read_pickle(Path(path)) if suffix in PICKLES else read_proposals(path)
    return SharedProposals(table.names, table.first, table.boxes, table.scores)


def check_proposals(table: ProposalTable, source: str, paths: Sequence[str]) -> None:
    """Hold proposals against a data set's images.

    Args:
        table: The proposals.
        source: Their file, for messages.
        paths: The images' files.

    Raises:
        DataError: An image has no entry.
    """
    missing = [path for path in paths if table.of(image_key(path)) is None]
    if not missing:
        return
    known = ", ".join(table.names[:3].tolist()) or "none"
    if len(missing) == len(paths):
        raise DataError(
            f"{source}: no proposals for any of the {len(paths)} images; it seems to belong to another data "
            f"set. The first image is {image_key(missing[0])}, the file's first ones are {known}"
        )
    raise DataError(
        f"{source}: no proposals for {len(missing)} of the {len(paths)} images, the first is "
        f"{image_key(missing[0])} (an image without proposals needs an empty entry)"
    )


def proposals_of_image(table: ProposalTable, path: str) -> dict[str, Any]:
    """``dict(bboxes=float32 (n, 4) xyxy in pixels, scores=float32 (n,))`` of an image, not to be changed."""
    found = table.of(image_key(path))
    if found is None:
        raise DataError(f"there are no proposals for {path}")
    return {"bboxes": found[0], "scores": found[1]}


def _read_pickle(path: Path) -> ProposalTable:
    """A plain pickle, put into an archive as torch writes it: so it passes all checks of such files."""
    try:
        with open_regular(path) as file:
            content = file.read()
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as members:
            members.writestr("archive/data.pkl", content)
            members.writestr("archive/byteorder", "little")
            members.writestr("archive/version", "3\n")
        archive.seek(0)
        return proposals_of_content(read_weights_file(archive, verified=True), str(path))
    except OSError as error:
        raise DataError(f"cannot read the proposals {path}: {error.strerror or error}") from error
    except CheckpointError as error:
        reason = str(error).removeprefix("the file ")
        raise DataError(
            f"{path}: {reason}. Only numbers are read from pickles; where you trust the file, write it as "
            "JSON with the program that made it: docs/data.md, Proposals"
        ) from error
