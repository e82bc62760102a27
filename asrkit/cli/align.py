"""``asrkit align``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import click

from asrkit.bundle.model_file import load_recognizer
from asrkit.cli.common import PATH, already_done, make_folder
from asrkit.console import log
from asrkit.data.alignments import write_alignments
from asrkit.data.folder import DataFolder
from asrkit.data.index import digest_of_cuts
from asrkit.data.upstream import require_current
from asrkit.decoding.forced_alignment import FRAMES, align_split, write_labelled_frames
from asrkit.files import companion
from asrkit.records import INPUTS, Record, digest


@click.command()
@click.option("--model", "model_path", type=PATH, required=True, help="A checkpoint or an exported model.")
@click.option("--data-dir", type=PATH, required=True, help="Prepared data, with features and transcripts.")
@click.option(
    "--split", "splits", default=("train", "dev"), show_default=True, multiple=True, help="Once for each split."
)
@click.option("--frames", "frames_dir", type=PATH, help="Write labelled frames of the first split there, for studies.")
@click.option("--force", is_flag=True, help="Align again even if it is done.")
def align(model_path: Path, data_dir: Path, splits: tuple[str, ...], frames_dir: Path | None, force: bool) -> None:
    """Find when each symbol of the transcripts is emitted, and write DATA_DIR/alignments, for loss.frame_epochs."""
    folder, load = DataFolder(data_dir), cache(load_recognizer)
    require_current(folder)
    for split in splits:
        output = folder.alignments(split)
        inputs = {
            "stage": "align",
            "digest of model": digest(model_path),
            "digest of cuts": digest_of_cuts(folder, split),
            "digest of tokenizer": digest(folder.tokenizer),
        }
        record = Record(companion(output, f".{INPUTS}"), inputs)
        if already_done([output], record, force):
            continue
        record.begin()
        aligned = list(align_split(load(model_path), folder, split))
        write_alignments(output, aligned)
        record.keep()
        log(f"aligned {len(aligned)} utterances of {split} into {output}")
    if frames_dir is not None:
        make_folder(frames_dir)
        number = write_labelled_frames(load(model_path), folder, splits[0], frames_dir / FRAMES)
        log(f"wrote {number} labelled frames of {splits[0]} into {frames_dir / FRAMES}")
