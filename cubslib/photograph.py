"""The commands about photographs: `search`, `gallery` and `classify`, of the network of a run."""

import shlex
from argparse import Namespace
from pathlib import Path

from cubslib import CubsError, galleries, machine, scoring, training
from cubslib.runs import finished


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
    if options.run is not None:
        return options.run
    runs = machine.project_root() / "runs"
    if getattr(options, "gallery", None):
        name = galleries.read(options.gallery).run
        if not (runs / name).is_dir():
            raise CubsError(f"{options.gallery} was made by {name}, which is not under runs/: "
                            "say where it is by --run.")  # fmt: skip
        return runs / name
    for folder, record in finished.find(runs):
        if record["task"] in tasks:
            return folder
    raise CubsError(f"there is no finished run of {' or '.join(tasks)}: run one first.")


def _say(run_dir: Path, lines: list[str]) -> None:
    if finished.of_sample(run_dir):
        print("SAMPLE DATA: this run was trained on pictures drawn by the library; what it says of "
              "a photograph means nothing.")  # fmt: skip
    print("\n".join([f"by {run_dir.name}:", *lines]))
