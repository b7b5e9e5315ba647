"""An encoder that lets a test kill a machine of Ray in the middle of its work: tests/optional/test_ray.py."""

import os
import time
from pathlib import Path

from minibert import SentenceEncoder


class WaitingEncoder(SentenceEncoder):
    """In its third batch on a machine other than ``driver`` it says so in a file, and waits for its end.

    Only the first that comes so far does this. Without ``place`` this is the encoder that it was made of.
    """

    place = driver = None
    batches = 0

    def encode_document(self, texts, **options):
        import ray

        if self.place and texts and ray.is_initialized():
            here = ray.get_runtime_context().get_node_id()
            self.batches += here != self.driver
            if self.batches == 3 and not (said := Path(self.place) / "started").exists():
                temporary = said.with_name(f"{os.getpid()}")
                temporary.write_text(here)
                try:
                    os.link(temporary, said)  # whole, and once
                except FileExistsError:
                    return super().encode_document(texts, **options)
                deadline = time.monotonic() + 100
                while time.monotonic() < deadline:
                    time.sleep(0.05)
        return super().encode_document(texts, **options)
