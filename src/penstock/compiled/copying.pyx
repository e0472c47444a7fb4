# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=True
"""
Bytes on their way into the files of shape logs: from the frames of a copy to a snapshot's chunks without an object for
each row, and from elements in memory to runs.

Owns `gather_rows`, `join_lines` and `join_runs`, the compiled twins of the functions of the same names in
`penstock.database.copy_frames` and `penstock.shape_log.chunks`, which say what they do and are their oracles.

Form: pure values. Invariants: nothing outside of the bytes given is read, whatever they are.

Theory of operation of `join_runs`: it is called by threads that write files while the event loop's thread is at work. A
thread that lets go of the interpreter's lock waits for it for as long as others may keep it, five milliseconds, so it lets
go once for many runs, and copies and checksums meanwhile. The checksum is that of zlib, eight bytes at a time by tables.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcpy

from penstock.errors import DecodeError

DEF ROW = 100  # d
DEF HEAD_BYTES = 5
DEF NEWLINE = 10
DEF COMMA = 44


cdef inline uint32_t _u32(const uint8_t *data) noexcept:
    return (<uint32_t>data[0] << 24) | (<uint32_t>data[1] << 16) | (<uint32_t>data[2] << 8) | <uint32_t>data[3]


def gather_rows(bytearray data not None, Py_ssize_t at, Py_ssize_t end):
    """
    Join the rows of the whole frames from `at` on, up to `end`; tell also where the first message begins that is none.
    """
    if at < 0 or end < at or end > PyByteArray_GET_SIZE(data):
        raise ValueError("the bytes asked for are not there")
    cdef const uint8_t *start = <const uint8_t *>PyByteArray_AS_STRING(data)
    cdef Py_ssize_t place = at
    cdef Py_ssize_t size = 0
    cdef uint32_t length
    # First how much memory the rows need, then the rows.
    while end - place >= HEAD_BYTES and start[place] == ROW:
        length = _u32(start + place + 1)
        if length < HEAD_BYTES - 1:
            raise DecodeError("a message of the server has a length that none has")
        if <Py_ssize_t>length > end - place - 1:
            break
        size += <Py_ssize_t>length - (HEAD_BYTES - 1)
        place += 1 + <Py_ssize_t>length
    rows = PyBytes_FromStringAndSize(NULL, size)
    cdef char *target = PyBytes_AS_STRING(rows)
    cdef Py_ssize_t past = place
    place = at
    while place < past:
        length = _u32(start + place + 1)
        memcpy(target, start + place + HEAD_BYTES, length - (HEAD_BYTES - 1))
        target += length - (HEAD_BYTES - 1)
        place += 1 + <Py_ssize_t>length
    return rows, past


def join_lines(bytes block not None, Py_ssize_t start, Py_ssize_t end, bint is_first):
    """
    Write the lines from `start` up to `end` with commas instead of newlines between them, and one before them unless
    they are the first; tell also how many there are.
    """
    if start < 0 or end < start or end > PyBytes_GET_SIZE(block):
        raise ValueError("the bytes asked for are not there")
    cdef Py_ssize_t size = end - start
    joined = PyBytes_FromStringAndSize(NULL, size + (0 if is_first else 1))
    cdef char *place = PyBytes_AS_STRING(joined)
    if not is_first:
        place[0] = COMMA
        place += 1
    memcpy(place, PyBytes_AS_STRING(block) + start, size)
    cdef char *past = place + size
    cdef Py_ssize_t count = 1
    while True:
        place = <char *>memchr(place, NEWLINE, past - place)
        if place == NULL:
            return joined, count
        place[0] = COMMA
        place += 1
        count += 1


cdef struct Part:
    const char *data
    Py_ssize_t size


cdef struct Run:
    # So many parts belong to it, and whether a comma comes before the first.
    Py_ssize_t count
    bint has_comma
    uint32_t crc


cdef uint32_t[8][256] _CRC


cdef void _fill_tables() noexcept:
    cdef uint32_t value
    cdef int byte, bit, ahead
    for byte in range(256):
        value = byte
        for bit in range(8):
            value = (value >> 1) ^ (<uint32_t>0xEDB88320 if value & 1 else 0)
        _CRC[0][byte] = value
    for ahead in range(1, 8):
        for byte in range(256):
            value = _CRC[ahead - 1][byte]
            _CRC[ahead][byte] = (value >> 8) ^ _CRC[0][value & 255]


_fill_tables()


cdef inline uint32_t _little(const uint8_t *data) noexcept nogil:
    return <uint32_t>data[0] | (<uint32_t>data[1] << 8) | (<uint32_t>data[2] << 16) | (<uint32_t>data[3] << 24)


cdef uint32_t _crc32(const uint8_t *data, Py_ssize_t size) noexcept nogil:
    cdef uint32_t crc = 0xFFFFFFFF, low, high
    while size >= 8:
        low = crc ^ _little(data)
        high = _little(data + 4)
        crc = (
            _CRC[7][low & 255] ^ _CRC[6][(low >> 8) & 255] ^ _CRC[5][(low >> 16) & 255] ^ _CRC[4][low >> 24]
            ^ _CRC[3][high & 255] ^ _CRC[2][(high >> 8) & 255] ^ _CRC[1][(high >> 16) & 255] ^ _CRC[0][high >> 24]
        )
        data += 8
        size -= 8
    while size:
        crc = (crc >> 8) ^ _CRC[0][(crc ^ data[0]) & 255]
        data += 1
        size -= 1
    return ~crc


cdef void _join(char *target, const Part *parts, Run *runs, Py_ssize_t runs_count) noexcept nogil:
    cdef Py_ssize_t run, part
    cdef char *start
    for run in range(runs_count):
        start = target
        for part in range(runs[run].count):
            if part or runs[run].has_comma:
                target[0] = COMMA
                target += 1
            memcpy(target, parts[part].data, parts[part].size)
            target += parts[part].size
        parts += runs[run].count
        runs[run].crc = _crc32(<const uint8_t *>start, target - start)


def join_runs(list elements not None, list runs not None):
    """
    Join the elements of each run by commas, with one before its first where that is said, and all runs; tell also the
    checksum of each.
    """
    cdef Py_ssize_t runs_count = len(runs), parts_count = 0, size = 0, run, index, place = 0
    cdef Py_ssize_t first, past
    cdef bint has_comma
    cdef bytes data
    cdef char *target
    for first, past, has_comma in runs:
        if first < 0 or past <= first or past > len(elements):
            raise ValueError("the elements asked for are not there")
        parts_count += past - first
    cdef Part *parts = <Part *>PyMem_Malloc(max(1, parts_count) * sizeof(Part))
    cdef Run *made = <Run *>PyMem_Malloc(max(1, runs_count) * sizeof(Run))
    try:
        if parts == NULL or made == NULL:
            raise MemoryError
        for run in range(runs_count):
            first, past, has_comma = runs[run]
            made[run].count = past - first
            made[run].has_comma = has_comma
            size += past - first - (0 if has_comma else 1)
            for index in range(first, past):
                data = <bytes?>(<tuple?>elements[index])[1]
                # The list holds the tuple, and that the bytes, for as long as this runs: lists of a tail's part are never
                # changed.
                parts[place].data = PyBytes_AS_STRING(data)
                parts[place].size = PyBytes_GET_SIZE(data)
                size += parts[place].size
                place += 1
        joined = PyBytes_FromStringAndSize(NULL, size)
        target = PyBytes_AS_STRING(joined)
        with nogil:
            _join(target, parts, made, runs_count)
        return joined, [made[run].crc for run in range(runs_count)]
    finally:
        PyMem_Free(parts)
        PyMem_Free(made)
