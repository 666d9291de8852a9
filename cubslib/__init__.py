"""Recognition on Tiny ImageNet and retrieval on Cars196 with convolutional networks."""

__version__ = "0.1.0"


class CubsError(Exception):
    """What was asked cannot be done; its text is one sentence that says why and what would do."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback: the sentence alone."""
        return [f"{type(self).__name__}: {self}"]
