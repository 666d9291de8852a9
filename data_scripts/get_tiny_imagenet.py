"""Lay Tiny ImageNet out in its official folders from an archive or a folder, and check it.

python data_scripts/get_tiny_imagenet.py --source tiny-imagenet-200.zip
"""

import sys

from lay_out import command

from cubslib.datasets import TinyImageNet

if __name__ == "__main__":
    sys.exit(
        command(
            __doc__.splitlines()[0],
            "tiny-imagenet-200",
            ("train", "val", "wnids.txt", "words.txt"),
            TinyImageNet,
            "The archive is http://cs231n.stanford.edu/tiny-imagenet-200.zip (248 MB).",
        )
    )
