"""What is kept of every trial: predictions, class probabilities and rationales of the whole test split, a Parquet file each.

Whatever is asked later of a trained model's test results is answered from here, without the model: the worst group,
calibration, McNemar's test, agreement of two models or with people.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int64

from rekd.store.files import Store
from rekd.store.formats import written_by

_NUM_FEATURES = b"rekd.num_features"


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredPredictions:
    """What a trained model says of the test split, in its order."""

    labels: Int64[np.ndarray, "sample"]
    """What is right."""
    probabilities: Float[np.ndarray, "sample class"]
    mask: Bool[np.ndarray, "sample feature"]
    """Rationales as they were tested; all True for cls."""

    @property
    def classes(self) -> Int64[np.ndarray, "sample"]:
        """The most probable class of each sample."""
        return self.probabilities.argmax(axis=1)

    def save(self, store: Store, digest: str) -> None:
        """Writes them under a trial's digest. Eight features are a byte: 10,000 masks of 196 are 245 kB."""
        packed = np.packbits(self.mask, axis=1)
        columns = {
            "sample": pa.array(np.arange(len(self.labels)), pa.int64()),
            "label": pa.array(self.labels, pa.int64()),
            "prediction": pa.array(self.classes, pa.int64()),
            "probabilities": pa.array(list(self.probabilities.astype(np.float32)), pa.list_(pa.float32())),
            "mask": pa.array([row.tobytes() for row in packed], pa.binary(packed.shape[1])),
        }
        table = pa.table(columns)
        sink = pa.BufferOutputStream()
        metadata = {**written_by(), _NUM_FEATURES.decode(): str(self.mask.shape[1])}
        pq.write_table(table.replace_schema_metadata(metadata), sink, write_page_checksum=True)
        store.write(store.predictions_file(digest), sink.getvalue().to_pybytes())

    @classmethod
    def load(cls, store: Store, digest: str) -> "StoredPredictions | None":
        """A trial's predictions; None where the store has none, or none that can be read, which is said."""
        path = store.predictions_file(digest)
        if not store.exists(path):
            return None
        content = store.read(path)
        try:
            table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
            return cls._of(table, table.schema.metadata)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            store.set_aside(path, content, f"could not be read ({error}); `python -m rekd audit` writes it again")
            return None

    @classmethod
    def _of(cls, table: pa.Table, metadata: Mapping[bytes, bytes]) -> "StoredPredictions":
        packed = np.frombuffer(b"".join(table["mask"].to_pylist()), dtype=np.uint8).reshape(table.num_rows, -1)
        mask = np.unpackbits(packed, axis=1, count=int(metadata[_NUM_FEATURES])).astype(bool)
        probabilities = np.array(table["probabilities"].to_pylist(), dtype=np.float32)
        return cls(labels=table["label"].to_numpy(), probabilities=probabilities, mask=mask)
