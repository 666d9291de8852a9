"""Draw the two small data sets that need no download, and check them."""

import argparse
import sys
from pathlib import Path

from lay_out import check

from cubslib import CubsError, disk, machine
from cubslib.datasets import Cars196, TinyImageNet
from cubslib.sample import layouts

SETS = (
    ("tiny-imagenet-200", layouts.draw_tiny_imagenet, TinyImageNet),
    ("cars196", layouts.draw_cars196, Cars196),
)


def main() -> int:
    """Draw what is not there yet under DATA_ROOT/sample; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="default: data")
    folder = machine.project_root() / parser.parse_args().data_root / "sample"
    try:
        for name, draw, data_set in SETS:
            root = folder / name
            with disk.lock(root.with_name(f".{name}.lock")):
                if root.exists():
                    print(f"{root} is there already, so it is only checked.")
                else:
                    draw(root)
                    print(f"{root} is drawn.")
            check(root, data_set)
    except CubsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
