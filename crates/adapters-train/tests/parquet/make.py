"""Writes examples.parquet, the same rows as examples.jsonl, and other compressions of it: what pyarrow makes of chats, numbers and lists.

    python make.py
"""

import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
message = pa.struct([("role", pa.string()), ("content", pa.string())])
schema = pa.schema([
    ("text", pa.string()), ("label", pa.int64()), ("score", pa.float64()), ("half", pa.float32()), ("right", pa.bool_()),
    ("tags", pa.list_(pa.string())), ("messages", pa.list_(message)), ("meta", pa.struct([("source", pa.large_string()), ("page", pa.uint16())])),
    ("counts", pa.map_(pa.string(), pa.int32())), ("name", pa.dictionary(pa.int32(), pa.string())), ("day", pa.date32()),
    ("price", pa.decimal128(6, 2)),
])
rows = []
for index in range(7):
    rows.append({
        "text": f"Row {index}: naïve café ⚓" * (index + 1),
        "label": index % 3,
        "score": index / 3 if index != 4 else None,
        "half": index / 2,
        "right": index % 2 == 0,
        "tags": ["a", None, "c"][: index % 4],
        "messages": [{"role": "user", "content": f"What is {index}?"}, {"role": "assistant", "content": None if index == 5 else "A number."}],
        "meta": None if index == 2 else {"source": "book", "page": index},
        "counts": {"x": index, "y": -index},
        "name": ["one", "two"][index % 2],
        "day": index * 400,
        "price": Decimal(index) + Decimal("0.25"),
    })
table = pa.Table.from_pylist(rows, schema)
pq.write_table(table, HERE / "snappy.parquet", compression="snappy", row_group_size=3, store_schema=False)
some = table.select(["text", "label", "messages"])
for compression in ("zstd", "gzip", "none"):
    pq.write_table(some, HERE / f"{compression}.parquet", compression=compression, row_group_size=5, store_schema=False)
# Another tool's newer layout.
pq.write_table(some, HERE / "v2.parquet", compression="snappy", data_page_version="2.0", version="2.6",
               use_dictionary=False, column_encoding={"text": "DELTA_LENGTH_BYTE_ARRAY", "label": "DELTA_BINARY_PACKED"}, store_schema=False)
pq.write_table(pa.table({"text": ["a"], "picture": [b"\xff\x00"]}), HERE / "bytes.parquet", store_schema=False)


def plain(value):
    return str(value) if isinstance(value, Decimal) else value


lines = []
for row in table.to_pylist():
    row["day"] = row["day"].isoformat()
    row["counts"] = dict(row["counts"])
    lines.append(json.dumps({key: plain(value) for key, value in row.items()}, ensure_ascii=False) + "\n")
(HERE / "examples.jsonl").write_text("".join(lines))
