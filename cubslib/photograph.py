"""The commands about photographs: `search`, `gallery` and `classify`, of the network of a run."""

import shlex
import sys
from argparse import Namespace
from pathlib import Path

from cubslib import CubsError, galleries, machine, scoring, training
from cubslib.losses import CONTROL  # T4's control embeds nothing
from cubslib.runs import finished, published


def search(options: Namespace) -> None:
    """Print the nearest images of a gallery to a photograph, a line each, best first.

    Args:
        options: `photo`, `run`, `count`, `gallery`, `box` and `sheet`, as given.

    Raises:
        CubsError: an option is not as it must be, or what it names cannot be read.
    """
    _check_count(options)
    box, sheet, run_dir = _box(options.box), options.sheet, _run_dir(options, "T4")
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise CubsError(f"--sheet is {sheet}; it must end in .png.")
    if options.gallery is None and (run_dir / "best.ckpt").is_file():  # published, without its own
        print(galleries.rebuild(run_dir, machine.project_root() / "data"), file=sys.stderr)
    found = galleries.search(run_dir, options.photo, options.count, options.gallery, box)
    lines = [f"{cosine:7.3f}  {of_class}  ({name})" for name, of_class, cosine in found]
    if len(found) < options.count:
        lines.append(f"These are all {len(found)} images of the gallery.")
    if sheet is not None:
        from cubslib.pages import pictures, plots  # these take a second to import

        searched = galleries.load(run_dir, options.gallery)
        images = galleries.sheet(searched, options.photo, found, box)
        titles = ["the photograph", *(f"{cosine:.3f} {of_class}" for _, of_class, cosine in found)]
        plots.show(pictures.image_grid(images, titles, columns=5), sheet)
        lines.append(f"sheet: {sheet}")
    _say(run_dir, lines)


def classify(options: Namespace) -> None:
    """Print the likeliest classes of a photograph, a line each, best first.

    Args:
        options: `photo`, `run` and `count`, as given.

    Raises:
        CubsError: there is no such run, or the photograph cannot be read.
    """
    _check_count(options)
    run_dir = _run_dir(options, "T3", "T2", "T1")
    found = scoring.classify(training.load(run_dir), options.photo, options.count)
    _say(run_dir, [f"{probability:7.1%}  {of_class}" for of_class, probability in found])


def gallery(options: Namespace) -> None:
    """Embed a folder of images into one file, and print the line that searches it.

    Args:
        options: `folder`, `run` and `out`, as given.

    Raises:
        CubsError: there is no such run or folder, or the file cannot be written.
    """
    run_dir, folder = _run_dir(options, "T4"), options.folder.resolve()
    file = options.out or folder.with_name(f"{folder.name}.npz")
    galleries.make(options.folder, run_dir, file)
    asked = shlex.join(["--gallery", str(file), "--run", str(run_dir)])
    _say(run_dir, [f"python -m cubslib search PHOTO {asked}"])


def _check_count(options: Namespace) -> None:
    if options.count < 1:
        raise CubsError(f"--count is {options.count}; it must be 1 or more.")


def _box(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(edge) for edge in text.split(","))
    except ValueError:
        raise CubsError(f"--box is {text!r}; it must be four whole numbers, "
                        "left,top,right,bottom in pixels.") from None  # fmt: skip


def _run_dir(options: Namespace, *tasks: str) -> Path:
    """Return the run that `--run` names; else the gallery's, or the newest of `tasks`."""
    if options.run not in (None, Path("published")):
        return options.run
    if options.run is None and getattr(options, "gallery", None):
        name = galleries.read(options.gallery).run
        for place in (machine.project_root() / "runs", published.root()):
            if (place / name).is_dir():
                return place / name
        raise CubsError(f"{options.gallery} was made by {name}, which is not under runs/: "
                        "say where it is by --run.")  # fmt: skip
    return _serving(tasks, options.run is None)


def _serving(tasks: tuple[str, ...], own: bool) -> Path:
    """Return the newest finished run of `tasks`, if `own` may serve; else a published one."""
    found = finished.find(machine.project_root() / "runs") if own else []
    run_dir = next((folder for folder, record in found if record["task"] in tasks
                    and record["settings"].get("mining") != CONTROL), None)  # fmt: skip
    if run_dir is None:
        run_dir = next((folder for folder, _ in published.find(*tasks)), None)
        if run_dir and own:
            print("There is no finished run of your own: a published one serves.", file=sys.stderr)
    if run_dir is None:
        where = "there is no finished run" if own else "notebooks/results/ holds no weights"
        raise CubsError(f"{where} of {' or '.join(tasks)}: run one first.")
    return run_dir


def _say(run_dir: Path, lines: list[str]) -> None:
    if finished.of_sample(run_dir):
        print("SAMPLE DATA: this run was trained on pictures drawn by the library; what it says of "
              "a photograph means nothing.")  # fmt: skip
    print("\n".join([f"by {run_dir.name}:", *lines]))
