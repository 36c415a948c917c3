#!/usr/bin/env python3
"""Writes the seed corpora tests/fuzz/corpus/NAME/ for the targets test_NAME.c. Each run writes the same:
nothing is random. Small files that are whole, and some that claim what they do not hold; the fuzzer finds the rest.
tests/fuzz/make_corpus.py [FOLDER]   FOLDER: instead of tests/fuzz/corpus
SPDX-License-Identifier: Apache-2.0
"""
import gzip
import io
import json
import lzma
import os
import struct
import sys
import tarfile
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "corpus")


def put(target, name, data):
    assert len(data) < 4096, f"{target}/{name}: {len(data)} bytes"
    folder = os.path.join(OUT, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)


def packed(data):
    return gzip.compress(data, 9, mtime=0)


# -- experiment files --

def config():
    head = "name: a\nsearcher: {name: random, metric: validation_accuracy, max_trials: 2, max_length: {rounds: 2}}\n"
    tail = "data: {source: synthetic}\nmodel: {preset: lenet}\n"
    tail += "hyperparameters: {lr: {type: log, base: 10, minval: -4, maxval: -1}}\n"
    whole = (head + tail + "training: {learning_rate: $lr, batch_size: 16}\n").encode()
    put("config", "whole", whole)
    put("config", "crlf", whole.replace(b"\n", b"\r\n"))
    put("config", "bom", b"\xef\xbb\xbf" + whole)
    put("config", "utf16", b"\xff\xfe" + whole.decode().encode("utf-16-le"))
    put("config", "nul", whole.replace(b"lenet", b"le\0net"))
    put("config", "invalid_utf8", whole.replace(b"name: a", b"name: \xc3\x28\xff"))
    put("config", "surrogate", whole.replace(b"name: a", b'name: "\\ud800"'))
    put("config", "escape", whole.replace(b"name: a", b'name: "\\e[31m\\x07\\u202e"'))
    put("config", "tab", whole.replace(b"searcher: ", b"searcher:\t"))
    put("config", "empty", b"")
    put("config", "only_comment", b"# nothing\n")
    put("config", "two_documents", whole + b"---\n" + whole)
    put("config", "deep_lists", b"name: " + b"[" * 2000)
    put("config", "deep_maps", b"{a: " * 800)
    put("config", "laughs", b"a: &a [1, 1]\n" + b"".join(
        b"%c: &%c [*%c, *%c, *%c, *%c]\n" % (c, c, c - 1, c - 1, c - 1, c - 1) for c in range(ord("b"), ord("z"))))
    put("config", "alias_of_itself", b"name: &x [*x]\n")
    put("config", "merge", b"base: &b {batch_size: 16}\ntraining: {<<: *b, learning_rate: 0.1}\n")
    put("config", "long_line", b"name: " + b"x" * 4000)
    put("config", "many_keys", b"".join(b"k%d: 0\n" % i for i in range(400)))
    for i, number in enumerate(("1e999", "-1e999", "9223372036854775808", "-9223372036854775809", "0x7fffffffffffffff",
                                ".nan", "-.inf", "1" + "0" * 300, "1e-320", "4294967296", "1.5")):
        put("config", f"number_{i}", whole.replace(b"max_trials: 2", f"max_trials: {number}".encode()))
        put("config", f"real_{i}", whole.replace(b"minval: -4", f"minval: {number}".encode()))
    put("config", "grid", whole.replace(b"random", b"grid").replace(
        b"type: log, base: 10, minval: -4, maxval: -1", b"type: double, minval: 0, maxval: 1, count: 4000000000"))
    put("config", "asha",
        whole.replace(b"name: random", b"name: adaptive_asha, max_rungs: 999999999, divisor: 1000000"))
    put("config", "layers",
        whole.replace(b"preset: lenet", b"layers: [{conv2d: {filters: 2147483647, kernel: 99}}, {repeat: 9}]"))
    put("config", "choices", b"hyperparameters: {x: {type: categorical, vals: [1, a, [2], {b: c}, null, true]}}\n")
    put("config", "tags", b"name: !!binary aGVsbG8=\nsearcher: !!python/object:os.system {}\n")
    put("config", "block_scalars", b"name: >-\n  a\n  b\ndescription: |+\n  c\n\n\n")


# -- protocol lines: one of each operation, and what a broken worker says --

MESSAGES = (
    {"op": "hello", "version": 1, "pid": 4711, "program": "p", "rank": 0, "size": 1, "isa": "avx512",
     "capabilities": ["reuse", "plan"]},
    {"op": "plan", "id": 1, "ok": True, "mem_bytes": 1 << 20, "pack_key": "k"},
    {"op": "plan", "id": 1, "ok": False, "errors": [{"path": "model.layers[2].conv2d.filters", "text": "t"}]},
    {"op": "report", "run": 12, "seq": 1, "kind": "training", "units": {"rounds": 1, "epochs": 0.5},
     "metrics": {"train_loss": 2.1},
     "clients": [{"client": 4, "samples": 900, "seconds": 0.2, "status": "ok", "metrics": {"train_loss": "NaN"}}]},
    {"op": "report", "run": 12, "seq": 1, "kind": "training", "steps": [{"units": {"rounds": 1},
                                                                         "metrics": {"a": 1}}] * 2},
    {"op": "progress", "run": 12, "units": {"seconds": 1.5}},
    {"op": "checkpoint", "run": 12, "seq": 3, "units": {"rounds": 1}, "path": "runs/12/checkpoint-1.safetensors",
     "bytes": 81234},
    {"op": "log", "run": 12, "level": "info", "text": "\u00e9"},
    {"op": "done", "run": 12, "seq": 40, "reason": "length", "units": {"rounds": 16}},
    {"op": "failed", "run": 12, "seq": 40, "reason": "bad_checkpoint", "text": "t", "path": "p"},
    {"op": "heartbeat", "rank": 0},
    {"op": "plan", "id": 1, "hyperparameters": {}, "sections": {"data": {"source": "synthetic"}}, "slots": 1,
     "describe": ["model"]},
    {"op": "assign", "run": 12, "experiment": 1, "trial": 3, "attempt": 1, "seed": 7, "data_seed": 7,
     "hyperparameters": {"lr": 0.01},
     "sections": {"data": {}}, "time_metric": "rounds", "train_until": 4, "max_units": 16,
     "metric": "validation_accuracy",
     "smaller_is_better": False, "min_checkpoint_period": 0, "resume": None, "trial_dir": "/t", "run_dir": "/t/r",
     "cache_dir": "/c",
     "slots": ["cpu:0"]},
    {"op": "evaluate", "run": 1, "split": "test", "checkpoint": "/c", "experiment": 1, "trial": 1, "seed": 7,
     "hyperparameters": {}},
    {"op": "train_until", "run": 12, "unit": 16},
    {"op": "checkpoint_now", "run": 12}, {"op": "preempt", "run": 12}, {"op": "stop", "run": 12},
            {"op": "release", "run": 12},
    {"op": "ack", "run": 12, "seq": 3},
)


def protocol():
    lines = [json.dumps(message, separators=(",", ":")) for message in MESSAGES]
    for i, line in enumerate(lines):
        put("protocol", f"message_{i:02}", line.encode() + b"\n")
    put("protocol", "conversation", "".join(line + "\n" for line in lines).encode())
    report = b'{"op":"report","run":1,"seq":1,"kind":"validation","units":{"rounds":1},"metrics":{"loss":%s}}\n'
    for i, value in enumerate((b"1e999", b'"NaN"', b'"-Infinity"', b"NaN", b"null", b"[]", b"1e-400", b"-0", b'"x"',
                               b"9" * 400)):
        put("protocol", f"value_{i}", report % value)
    put("protocol", "deep", b'{"op":"progress","x":' + b"[" * 3000 + b"\n")
    put("protocol", "numbers", b'{"op":"ack","run":9223372036854775808,"seq":-1}\n{"op":"ack","run":1.5,"seq":1e3}\n')
    put("protocol", "twice", b'{"op":"ack","op":"stop","run":1,"seq":1}\n')
    put("protocol", "nul", b'{"op":"log","run":1,"level":"info","text":"a\\u0000b"}\n{"op":"a\\u0000"}\n\0\n')
    put("protocol", "utf8", b'{"op":"log","run":1,"level":"info","text":"\xc3\x28"}\n{"op":"\xff"}\n{"op":"\\ud800"}\n')
    put("protocol", "empty", b"")
    put("protocol", "empty_lines", b"\n\n\r\n \n")
    put("protocol", "no_newline", b'{"op":"heartbeat","rank":0}')
    put("protocol", "paths", b"".join(
        b'{"op":"checkpoint","run":1,"seq":1,"units":{"rounds":1},"path":"%s","bytes":1}\n' % p
        for p in (b"../x", b"/etc/x", b"a/../../b", b"", b".", b"a//b", b"a\\u0000b")))
    put("protocol", "not_objects", b'[]\n1\n"op"\nnull\ntrue\n{}\n{"op":1}\n{"op":null}\n')
    put("protocol", "unknown_op", b'{"op":"\\u001b[31m","run":1}\n')


# -- checkpoints of the model that test_checkpoint.c has: "1.weight" (2, 4), "1.bias" (2), "optimizer" (4) --

def safetensors(tensors, metadata=None, header_n=None, extra=b"", shift=0):
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, dtype, shape, raw in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data) + shift,
                                                                         len(data) + len(raw) + shift]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if header_n is None else header_n) + text + data + extra


def checkpoint():
    floats = lambda n: b"".join(struct.pack("<f", i / 4) for i in range(n))
    tensors = [("1.weight", "F32", [2, 4], floats(8)), ("1.bias", "F32", [2], floats(2)),
               ("optimizer", "F32", [4], floats(4))]
    metadata = {"format": "flexp-checkpoint-1", "model": "0" * 16, "seed": "7", "trial": "3",
                "state": "{\"round\": 4, \"rng\": [1, 2]}", "checksum": "0" * 32}
    put("checkpoint", "whole", safetensors(tensors, metadata))
    for key, value in (("seed", "8"), ("trial", "x"), ("format", ""), ("state", "{"), ("state", "[" * 2100),
                       ("checksum", "")):
        put("checkpoint", f"other_{key}_{len(value)}", safetensors(tensors, dict(metadata, **{key: value})))
    put("checkpoint", "no_metadata", safetensors(tensors))
    put("checkpoint", "metadata_of_numbers", safetensors(tensors, {"seed": 7}))
    put("checkpoint", "no_tensors", safetensors([], metadata))
    put("checkpoint", "missing_tensor", safetensors(tensors[:2], metadata))
    put("checkpoint", "wrong_type", safetensors([("1.weight", "F64", [4], floats(8))] + tensors[1:], metadata))
    put("checkpoint", "all_types", safetensors([("a", "F64", [1], floats(2)), ("b", "I64", [1], floats(2)),
                                                ("c", "U8", [3], b"abc")]))
    put("checkpoint", "shape_2_40", safetensors([("1.weight", "F32", [1 << 40], floats(8))]))
    put("checkpoint", "shape_overflows", safetensors([("1.weight", "F32", [1 << 32, 1 << 32, 1 << 32, 8], floats(8))]))
    put("checkpoint", "shape_zero", safetensors([("a", "F32", [0, 1 << 62], b"")] + tensors, metadata))
    put("checkpoint", "five_dimensions", safetensors([("a", "F32", [1, 1, 1, 1, 2], floats(2))]))
    put("checkpoint", "offsets_beyond", safetensors(tensors, metadata, shift=1 << 40))
    put("checkpoint", "offsets_negative", safetensors(tensors, metadata, shift=-8))
    put("checkpoint", "bytes_after", safetensors(tensors, metadata, extra=b"more"))
    put("checkpoint", "header_2_40", safetensors(tensors, metadata, header_n=1 << 40))
    put("checkpoint", "header_2_64", safetensors(tensors, metadata, header_n=(1 << 64) - 1))
    put("checkpoint", "header_short", safetensors(tensors, metadata, header_n=9))
    put("checkpoint", "long_name", safetensors([("n" * 200, "F32", [2], floats(2))]))
    put("checkpoint", "control_name", safetensors([("\x1b[31m\n\u202e", "F16", [2], floats(2))]))
    put("checkpoint", "empty", b"")
    put("checkpoint", "zeros", b"\0" * 64)
    put("checkpoint", "torn", safetensors(tensors, metadata)[:-5])


# -- IDX --

def idx(labels, images, test=0):
    return bytes([test]) + struct.pack(">H", len(labels)) + labels + images


def idx_part(sizes, body, magic=None):
    magic = 0x800 | len(sizes) if magic is None else magic
    return struct.pack(">I", magic) + b"".join(struct.pack(">I", n) for n in sizes) + body


def idx_all():
    labels, images = idx_part([6], bytes([0, 1, 2, 0, 1, 2])), idx_part([6, 3, 4], bytes(range(72)))
    put("idx", "whole", idx(labels, images))
    put("idx", "with_test", idx(labels, images, 1))
    put("idx", "packed", idx(packed(labels), packed(images), 1))
    put("idx", "two_members", idx(labels, packed(images[:20]) + packed(images[20:])))
    put("idx", "packed_torn", idx(labels, packed(images)[:-9]))
    put("idx", "packed_and_more", idx(labels, packed(images) + b"more"))
    put("idx", "packed_flipped", idx(labels, packed(images)[:25] + b"\x55" + packed(images)[26:]))
    for i, sizes in enumerate(([0xffffffff, 3, 4], [6, 0xffffffff, 4], [6, 8192, 8192], [0xffffffff, 8192, 8192],
                               [0, 3, 4],
                               [6, 0, 4], [7, 3, 4], [5, 3, 4], [1, 1, 1], [72, 1, 1])):
        put("idx", f"sizes_{i}", idx(labels, idx_part(sizes, bytes(72))))
        put("idx", f"sizes_{i}_packed", idx(labels, packed(idx_part(sizes, bytes(72)))))
    put("idx", "labels_2_32", idx(idx_part([0xffffffff], bytes(6)), images))
    put("idx", "labels_255", idx(idx_part([6], bytes([255, 0, 0, 0, 0, 255])), images, 1))
    put("idx", "magic_ints", idx(labels, idx_part([6, 3, 4], bytes(72), 0xc03)))
    put("idx", "magic_swapped", idx(labels, idx_part([6, 3, 4], bytes(72), 0x03080000)))
    put("idx", "exchanged", idx(images, labels))
    put("idx", "empty", idx(b"", b""))
    put("idx", "header_torn", idx(labels, images[:10]))
    put("idx", "zeros_packed", idx(packed(idx_part([300], bytes(300))),
                                   packed(idx_part([300, 28, 28], bytes(300 * 784)))))


# -- tar archives --

def tar(entries, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=options.pop("format", tarfile.USTAR_FORMAT)) as archive:
        for name, data in entries:
            entry = tarfile.TarInfo(name)
            if data is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(data, bytes):
                entry.size = len(data)
            else:
                entry.type, entry.linkname = data
            archive.addfile(entry, io.BytesIO(data) if isinstance(data, bytes) else None)
    return buffer.getvalue()


def sized(archive, size):
    """The first entry's size becomes another, and its header's sum right again."""
    field = b"%011o\0" % size if size < 8 ** 11 else b"\x80" + size.to_bytes(11, "big")
    head = bytearray(archive[:512])
    head[124:136] = field
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + archive[512:]


def png(width, height, colour=0, depth=8, rows=None, interlace=0):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if rows is None:
        rows = b"".join(b"\0" + bytes((width * samples * depth + 7) // 8) for _ in range(height))
    palette = chunk(b"PLTE", bytes(range(12))) if colour == 3 else b""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + chunk(b"IDAT", zlib.compress(rows, 9))
            + chunk(b"IEND", b""))


def jpeg(width, height, scan=b"\0", frame=0xc0):
    """One grey component; each table holds one code, of one bit: the value 0."""
    def segment(kind, data):
        return bytes([0xff, kind]) + struct.pack(">H", len(data) + 2) + data
    code = bytes([1] + [0] * 15 + [0])
    last = 0 if frame == 0xc2 else 63  # the first scan of a progressive picture has no more than each block's mean
    return (b"\xff\xd8" + segment(0xdb, b"\0" + b"\1" * 64)
            + segment(frame, struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0))
            + segment(0xc4, b"\0" + code) + segment(0xc4, b"\x10" + code) + segment(0xda, bytes([1, 1, 0, 0, last, 0]))
            + scan + b"\xff\xd9")


def images():
    tree = lambda picture, n=1: [(f"{split}/{name}/{i}.png", picture)
                                 for split in ("train", "test") for name in ("cat", "dog") for i in range(n)]
    flat = lambda picture: [("cat/1.png", picture), ("dog/2.jpg", picture)]
    small = png(3, 2)
    for options in range(8):
        put("images", f"tree_{options}", bytes([options]) + packed(tar(tree(small, 2))))
    put("images", "plain", b"\0" + tar([("a/1.png", small), ("b/1.png", small)])[:4000])
    put("images", "xz", b"\0" + lzma.compress(tar(flat(small))))
    for i, picture in enumerate((png(4, 4, 2), png(4, 4, 3, 2), png(5, 3, 4), png(3, 3, 6, 16), png(9, 9, 0, 1),
                                 png(9, 9, 2, 8, None, 1),
                                 jpeg(8, 8), jpeg(8, 8, b"", 0xc2), jpeg(16, 24, b"\0\0"), jpeg(8, 8, b"\0", 0xc9))):
        put("images", f"format_{i}", b"\0" + packed(tar(flat(picture))))
        put("images", f"format_{i}_small", b"\1" + packed(tar(flat(picture))))
        put("images", f"picture_{i}", bytes([8 + i % 8]) + picture)
    for i, picture in enumerate((png(8192, 8192, 2, 8, b"\0"), png(8192, 8192, 6, 16, b"\0"),
                                 png(1 << 30, 1 << 30, 2, 16, b"\0"),
                                 png(0, 0, 0, 8, b""), jpeg(8192, 8192), jpeg(8192, 8192, b"\0", 0xc2),
                                 jpeg(65500, 65500), jpeg(0, 8),
                                 small[:40], small[:-20], b"", b"\x89PNG", b"\xff\xd8\xff", b"GIF89a")):
        put("images", f"claims_{i}", b"\0" + packed(tar(flat(picture))))
        put("images", f"picture_claims_{i}", b"\x08" + picture)
    big = bytearray(small)
    big[16:24] = struct.pack(">II", 8192, 8192)  # the chunk's sum is wrong too
    put("images", "wrong_sum", b"\0" + packed(tar(flat(bytes(big)))))
    put("images", "sizes_differ", b"\0" + packed(tar([("a/1.png", small), ("b/1.png", png(3, 3))])))
    put("images", "colours_differ", b"\0" + packed(tar([("a/1.png", small), ("b/1.png", png(3, 2, 2))])))
    for i, size in enumerate((1 << 28, 1 << 33, 1 << 40, (1 << 63) - 1)):
        put("images", f"entry_claims_{i}", b"\0" + packed(sized(tar(flat(small)), size)))
    for i, entry in enumerate((("../a/1.png", small), ("/a/1.png", small), ("a/../../b.png", small),
                               ("a/1.png", (tarfile.SYMTYPE, "/etc/passwd")),
                               ("a/1.png", (tarfile.LNKTYPE, "b/1.png")), ("a/1.png", (tarfile.CHRTYPE, "")),
                               ("a/1.png", (tarfile.FIFOTYPE, "")),
                               ("a/\x1b[31m\n.png", b"x"), ("a/\udcff\udc80.png", b"x"), ("x/" * 40 + "1.png", small),
                               ("a", small), ("", small))):
        raw = tar([entry, ("b/1.png", small)], format=tarfile.GNU_FORMAT)
        put("images", f"entry_{i}", b"\0" + packed(raw))
    put("images", "pax", b"\0" + packed(tar([("a" * 120 + "/\u00e9.png", small), ("b/1.png", small)],
                                            format=tarfile.PAX_FORMAT)))
    sparse = io.BytesIO()
    with tarfile.open(fileobj=sparse, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("a/1.png")
        entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a/1.png",
                             "GNU.sparse.realsize": str(1 << 40)}
        body = b"1\n%d\n1\n" % ((1 << 40) - 1)
        body += b"\0" * (512 - len(body)) + b"x"
        entry.size = len(body)
        archive.addfile(entry, io.BytesIO(body))
    put("images", "sparse_2_40", b"\0" + packed(sparse.getvalue()))
    put("images", "zeros", b"\0" + packed(b"\0" * 10240))
    put("images", "torn", b"\0" + packed(tar(tree(small)))[:-20])
    put("images", "empty", b"\0")
    put("images", "text", b"\0hello\n")


# -- CIFAR-10 --

def cifar():
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    record = bytes([3]) + bytes(3072)
    folder = lambda batches: [("cifar-10-batches-bin/" + name, batch) for name, batch in batches]
    put("cifar", "one", b"\0" + record)
    put("cifar", "one_torn", b"\0" + record[:100])
    put("cifar", "one_more", b"\0" + record + b"\0")
    put("cifar", "label", b"\0" + b"\x0a" + record[1:])
    put("cifar", "empty", b"\0")
    put("cifar", "folder", b"\2" + record)
    put("cifar", "folder_label", b"\2" + b"\xff" + record[1:])
    put("cifar", "folder_empty", b"\2")
    put("cifar", "archive", b"\1" + packed(tar(folder((name, record) for name in names))))
    put("cifar", "archive_lacks", b"\1" + packed(tar(folder((name, record) for name in names[:4]))))
    put("cifar", "archive_twice", b"\1" + packed(tar(folder((name, record) for name in names + names[:1]))))
    put("cifar", "archive_torn", b"\1" + packed(tar(folder((name, record) for name in names)))[:-60])
    put("cifar", "archive_odd",
        b"\1" + packed(tar(folder((name, record + b"\0" * (name == names[3])) for name in names))))
    put("cifar", "archive_link", b"\1" + packed(tar([(names[0], (tarfile.SYMTYPE, "/etc/passwd"))])))
    put("cifar", "archive_nothing", b"\1" + packed(b"\0" * 10240))
    for i, size in enumerate((1 << 28, 1 << 40, (1 << 63) - 1, 0)):
        put("cifar", f"archive_claims_{i}", b"\1" + packed(sized(tar(folder((name, record) for name in names)), size)))


def main():
    config()
    protocol()
    checkpoint()
    idx_all()
    images()
    cifar()


main()
