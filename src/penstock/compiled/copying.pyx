# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=True
"""
From the frames of a copy to the bytes of a snapshot's chunks, without an object for each row.

Owns `gather_rows` and `join_lines`, the compiled twins of the functions of the same names in
`penstock.database.copy_frames` and `penstock.shape_log.chunks`, which say what they do and are their oracles.

Form: pure values. Invariants: nothing outside of the bytes given is read, whatever they are.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
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
