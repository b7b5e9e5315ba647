"""An encoder that lets a test kill a machine of Ray in the middle of its work: tests/optional/test_ray.py."""

import os
import time
from contextlib import suppress
from pathlib import Path

from minibert import SentenceEncoder


class WaitingEncoder(SentenceEncoder):
    """In its third batch on a machine other than ``driver`` it says so in a file, and waits for its end.

    Only the first that comes so far does this, and on ``driver`` none begins before. Without ``place`` this is the
    encoder that it was made of.
    """

    place = driver = None
    batches = 0

    def encode_document(self, texts, **options):
        if self.place and texts:
            self.batches += 1
            self.wait(Path(self.place) / "started")
        return super().encode_document(texts, **options)

    def wait(self, said):
        import ray

        here, ours = ray.get_runtime_context().get_node_id(), said.with_name(f"{os.getpid()}")
        if here != self.driver and self.batches == 3 and not said.exists():
            ours.write_text(here)
            with suppress(FileExistsError):
                os.link(ours, said)  # whole, and once
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and (
            not said.exists() if here == self.driver else said.exists() and ours.exists() and said.samefile(ours)
        ):
            time.sleep(0.05)
