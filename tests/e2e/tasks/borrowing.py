"""A Task that needs a package which is not in the image."""

import ty_borrowed  # type: ignore[import-not-found]

from trainyard_trainer.tasks.digits import Digits


class Borrowing(Digits):
    """Trains only with the version that its job requires."""

    def __init__(self) -> None:
        super().__init__(hidden=int(ty_borrowed.VERSION.split(".")[0]))
