# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=True
"""
From the bytes of the stream to the bytes of the shape log, without an object for each column.

Owns `StreamRow` (a row as one piece of memory), `RowDecoder` (the compiled twin of
`replication.pgoutput.TableDecoder`), `FrameLoop` (that of the loop in `replication.transactions`) and `RowWriter` (that
of the functions which `wire.rows` generates). Twins have to agree byte for byte: the Python is the oracle, and property
tests hold the two together.

Form: pure values. Invariants: whatever the bytes of the stream are, nothing but `DecodeError` comes out and nothing
outside of the message is read; what is written depends on the arguments alone.

Theory of operation. A tuple of the stream is walked twice: first over the heads of its columns, which says how much
memory the row needs and whether the message is well-formed, then to copy the values beside each other. A row owns its
memory, so it may outlive the buffer that it came in. Messages are written into one buffer of the module, which grows as
needed and is given back when it has become large; the interpreter's lock guards it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyTypeObject
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy

from penstock.errors import DecodeError

cdef extern from "Python.h":
    object PyType_GenericAlloc(PyTypeObject *kind, Py_ssize_t count)
    void PyObject_GC_UnTrack(void *op) noexcept

DEF TEXT = 116  # t
DEF NOTHING = 110  # n
DEF UNCHANGED = 117  # u
DEF NEW = 78  # N
DEF OLD = 79  # O
DEF KEY = 75  # K
DEF NULL_SIZE = -1
DEF KEPT_BYTES_MAX = 1 << 20


cdef struct Span:
    Py_ssize_t at
    Py_ssize_t size


cdef struct Place:
    Py_ssize_t index
    # Whether values of the type never hold anything to escape.
    bint is_plain


cdef inline uint32_t _u32(const uint8_t *data) noexcept:
    return (<uint32_t>data[0] << 24) | (<uint32_t>data[1] << 16) | (<uint32_t>data[2] << 8) | <uint32_t>data[3]


cdef object _too_short():
    return DecodeError("a message of pgoutput does not have the length that its contents ask for")


@cython.final
@cython.freelist(1024)
cdef class StreamRow:
    """
    A row of the stream: a sequence of text values, None for NULL, as the tuple of the plain decoder is one.
    """

    cdef Py_ssize_t count
    cdef Span *spans
    cdef uint8_t *text

    def __dealloc__(self):
        # The spans and the text behind them are one allocation.
        PyMem_Free(self.spans)

    def __len__(self):
        return self.count

    def __getitem__(self, Py_ssize_t index):
        if index < 0:
            index += self.count
        if index < 0 or index >= self.count:
            raise IndexError("a row has no such column")
        return self.value(index)

    def __iter__(self):
        return iter(self.values())

    def __eq__(self, other):
        if isinstance(other, StreamRow):
            return self.values() == (<StreamRow>other).values()
        if isinstance(other, tuple):
            return self.values() == other
        return NotImplemented

    def __hash__(self):
        return hash(self.values())

    def __repr__(self):
        return f"StreamRow{self.values()!r}"

    cdef object value(self, Py_ssize_t index):
        cdef Span span = self.spans[index]
        if span.size == NULL_SIZE:
            return None
        return PyBytes_FromStringAndSize(<const char *>self.text + span.at, span.size)

    cdef tuple values(self):
        return tuple([self.value(index) for index in range(self.count)])


cdef StreamRow _allocate(Py_ssize_t count, Py_ssize_t text_bytes):
    cdef StreamRow row = StreamRow.__new__(StreamRow)
    row.spans = <Span *>PyMem_Malloc(count * sizeof(Span) + text_bytes)
    if row.spans == NULL:
        raise MemoryError
    row.count = count
    row.text = <uint8_t *>(row.spans + count)
    return row


cdef StreamRow _from_values(object values):
    """
    Make a row of what is not one yet.
    """
    if isinstance(values, StreamRow):
        return <StreamRow>values
    cdef Py_ssize_t total = 0, at = 0, index = 0, size
    for value in values:
        if value is not None:
            total += len(<bytes?>value)
    cdef StreamRow row = _allocate(len(values), total)
    for value in values:
        row.spans[index].at = at
        if value is None:
            row.spans[index].size = NULL_SIZE
        else:
            size = PyBytes_GET_SIZE(value)
            row.spans[index].size = size
            memcpy(row.text + at, PyBytes_AS_STRING(value), size)
            at += size
        index += 1
    return row


@cython.final
cdef class RowDecoder:
    """
    Decodes the rows of one relation; `description` says which.
    """

    cdef readonly object description
    cdef Py_ssize_t count
    # Where the tuple read last ended, and whether it lacked values that were not sent.
    cdef Py_ssize_t after
    cdef bint is_incomplete

    def __init__(self, description):
        self.description = description
        self.count = len(description.columns)

    cdef Py_ssize_t measure(self, const uint8_t *data, Py_ssize_t at, Py_ssize_t end, StreamRow old) except -1:
        """
        Walk a tuple, check it, set `after` and `is_incomplete`, and tell how many bytes its values have.
        """
        cdef Py_ssize_t total = 0, index
        cdef Py_ssize_t size
        cdef uint8_t kind
        self.is_incomplete = False
        if end - at < 2:
            raise _too_short()
        if (data[at] << 8 | data[at + 1]) != self.count:
            raise DecodeError("a row does not have the columns that its relation was described with")
        at += 2
        for index in range(self.count):
            if at >= end:
                raise _too_short()
            kind = data[at]
            at += 1
            if kind == TEXT:
                if end - at < 4:
                    raise _too_short()
                size = _u32(data + at)
                at += 4
                if end - at < size:
                    raise _too_short()
                at += size
                total += size
            elif kind == UNCHANGED:
                if old is None:
                    self.is_incomplete = True
                elif old.spans[index].size != NULL_SIZE:
                    total += old.spans[index].size
            elif kind != NOTHING:
                raise DecodeError(f"a column is neither text nor NULL nor unchanged: {kind:#04x}")
        self.after = at
        return total

    cdef StreamRow read(self, const uint8_t *data, Py_ssize_t at, Py_ssize_t end, StreamRow old):
        """
        Read a tuple; unchanged values come from the old row, and are NULL without it.
        """
        cdef Py_ssize_t total = self.measure(data, at, end, old)
        cdef StreamRow row = _allocate(self.count, total)
        cdef Span *span = row.spans
        cdef Py_ssize_t index, size, to = 0
        cdef uint8_t kind
        at += 2
        for index in range(self.count):
            kind = data[at]
            at += 1
            span.at = to
            span.size = NULL_SIZE
            if kind == TEXT:
                size = _u32(data + at)
                at += 4
                memcpy(row.text + to, data + at, size)
                span.size = size
                at += size
                to += size
            elif kind == UNCHANGED and old is not None and old.spans[index].size != NULL_SIZE:
                size = old.spans[index].size
                memcpy(row.text + to, old.text + old.spans[index].at, size)
                span.size = size
                to += size
            span += 1
        return row

    cdef int check_end(self, Py_ssize_t end) except -1:
        if self.after != end:
            raise _too_short()
        return 0

    cdef StreamRow read_insert(self, const uint8_t *data, Py_ssize_t at, Py_ssize_t end):
        if data[at] != NEW:
            raise DecodeError("an Insert message without a new row")
        row = self.read(data, at + 1, end, None)
        self.check_end(end)
        return row

    cdef StreamRow read_old(self, const uint8_t *data, Py_ssize_t at, Py_ssize_t end):
        """
        Read what stands before the new row of an Update message, and set `after` to the place of that.
        """
        cdef StreamRow old = None
        self.after = at
        if data[at] == OLD:
            old = self.read(data, at + 1, end, None)
            if self.is_incomplete:
                old = None
        elif data[at] == KEY:
            self.measure(data, at + 1, end, None)
        return old

    cdef StreamRow read_new(self, const uint8_t *data, Py_ssize_t at, Py_ssize_t end, StreamRow old):
        if at >= end:
            raise _too_short()
        if data[at] != NEW:
            raise DecodeError("an Update message without a new row")
        row = self.read(data, at + 1, end, old)
        self.check_end(end)
        return row

    cdef StreamRow read_delete(self, const uint8_t *data, Py_ssize_t at, Py_ssize_t end):
        cdef uint8_t kind = data[at]
        if kind != OLD and kind != KEY:
            raise DecodeError("a Delete message without an old row or a key")
        row = self.read(data, at + 1, end, None)
        self.check_end(end)
        return None if kind == KEY or self.is_incomplete else row

    cdef const uint8_t *body(self, bytes data, Py_ssize_t at, Py_ssize_t end) except NULL:
        if at < 0 or end > PyBytes_GET_SIZE(data) or at >= end:
            raise _too_short()
        return <const uint8_t *>PyBytes_AS_STRING(data)

    def insert(self, bytes data not None, Py_ssize_t at, Py_ssize_t end):
        """
        Decode what follows the oid in an Insert message; tell also whether the row is incomplete.
        """
        row = self.read_insert(self.body(data, at, end), at, end)
        return row, self.is_incomplete

    def update(self, bytes data not None, Py_ssize_t at, Py_ssize_t end):
        """
        Decode what follows the oid in an Update message: the whole old row, if it came, and the new row.
        """
        cdef const uint8_t *body = self.body(data, at, end)
        cdef StreamRow old = self.read_old(body, at, end)
        return old, self.read_new(body, self.after, end, old)

    def delete(self, bytes data not None, Py_ssize_t at, Py_ssize_t end):
        """
        Decode what follows the oid in a Delete message: the whole old row, None when only its key came.
        """
        return self.read_delete(self.body(data, at, end), at, end)


# --- the loop over frames --------------------------------------------------------------------------------------------

DEF FRAME_LENGTH_BYTES = 4
DEF MESSAGE_AT = 25
DEF KIND_AT = FRAME_LENGTH_BYTES + MESSAGE_AT
DEF BEGIN_BYTES = MESSAGE_AT + 21
DEF COMMIT_BYTES = MESSAGE_AT + 26
DEF POSITION_STEP = 2


cdef inline uint64_t _u64(const uint8_t *data) noexcept:
    return (<uint64_t>_u32(data) << 32) | _u32(data + 4)


cdef inline object _position(object kind, uint64_t value):
    """
    Make a position of this class without its constructor, which looks whether the number has 64 bits.
    """
    made = PyType_GenericAlloc(<PyTypeObject *>kind, 0)
    made.value = value
    return made


@cython.final
cdef class FrameLoop:
    """
    Feeds frames to an assembler of transactions: what `TransactionAssembler` does by itself, where it is worth it.

    The classes of what it makes are given, so that this module stands below those that define them.
    """

    cdef object change, fragment, commit_lsn, end_lsn, inserting, updating, deleting, mixed
    cdef Py_ssize_t fragment_bytes_max

    def __init__(self, change, fragment, commit_lsn, end_lsn, operations, mixed, Py_ssize_t fragment_bytes_max):
        """
        Make changes and fragments of these classes; `operations` are those of insert, update and delete, `mixed` stands
        for no relation in common.
        """
        self.change = change
        self.fragment = fragment
        self.commit_lsn = commit_lsn
        self.end_lsn = end_lsn
        self.inserting, self.updating, self.deleting = operations
        self.mixed = mixed
        self.fragment_bytes_max = fragment_bytes_max

    def feed(self, assembler, bytes frames not None, list events not None):
        """
        Take whole frames; append what became known, in order.

        Raises:
            DecodeError: the bytes are not frames of a pgoutput stream of protocol version 1.
        """
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(frames)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frames)
        cdef Py_ssize_t at = 0, end, fragment_at = 0, length
        cdef dict tables = assembler._tables
        # What is state of the assembler is kept here meanwhile, and told it before it is asked for anything.
        cdef list changes = assembler._changes
        only = assembler._only
        cdef long long position = assembler._position
        commit_lsn = assembler._commit_lsn
        cdef bint is_inside = commit_lsn is not None
        cdef bint is_first = assembler._is_first
        cdef uint64_t commit = commit_lsn.value if is_inside else 0
        cdef uint32_t xid = assembler._xid
        cdef uint8_t kind
        cdef uint32_t oid
        cdef RowDecoder table
        cdef StreamRow old, new
        while at < size:
            if size - at < KIND_AT + 5:
                raise DecodeError("a frame is cut off or too short for its message")
            length = <int32_t>_u32(data + at)
            end = at + FRAME_LENGTH_BYTES + length
            if length < MESSAGE_AT + 5 or end > size or data[at + FRAME_LENGTH_BYTES] != 119:
                raise DecodeError("not a frame of WAL data")
            kind = data[at + KIND_AT]
            if kind == 73 or kind == 85 or kind == 68:  # I, U, D
                if not is_inside:
                    raise DecodeError("a change came outside a transaction")
                oid = _u32(data + at + KIND_AT + 1)
                found = tables.get(oid)
                if found is None:
                    raise DecodeError(f"a change names the relation {oid}, which this connection has not described")
                table = <RowDecoder?>found
                at += KIND_AT + 5
                if kind == 73:
                    new = table.read_insert(data, at, end)
                    change = self.change(
                        self.inserting, table.description, position, None, new, table.is_incomplete
                    )
                elif kind == 85:
                    old = table.read_old(data, at, end)
                    new = table.read_new(data, table.after, end, old)
                    change = self.change(self.updating, table.description, position, old, new, old is None)
                else:
                    old = table.read_delete(data, at, end)
                    change = self.change(self.deleting, table.description, position, old, None, old is None)
                changes.append(change)
                if table.description is not only:
                    only = table.description if only is None else self.mixed
                position += POSITION_STEP
                at = end
                if end - fragment_at > self.fragment_bytes_max:
                    self.tell(assembler, commit_lsn, xid, is_first, changes, only, position)
                    assembler._close_fragment(events)
                    is_first = assembler._is_first
                    changes = assembler._changes
                    only = None
                    fragment_at = end
            elif kind == 66:  # B
                if is_inside or length != BEGIN_BYTES:
                    raise DecodeError("a transaction begins inside another one, or its Begin message is malformed")
                is_inside = True
                commit = _u64(data + at + KIND_AT + 1)
                commit_lsn = _position(self.commit_lsn, commit)
                xid = _u32(data + at + KIND_AT + 17)
                is_first = True
                changes = []
                only = None
                position = 0
                at = fragment_at = end
            elif kind == 67:  # C
                if not is_inside or length != COMMIT_BYTES:
                    raise DecodeError("a transaction ends that did not begin, or its Commit message is malformed")
                if _u64(data + at + KIND_AT + 2) != commit:
                    raise DecodeError("a transaction ends that is not the one that began")
                events.append(
                    self.fragment(
                        commit_lsn,
                        xid,
                        changes,
                        is_first,
                        _position(self.end_lsn, _u64(data + at + KIND_AT + 10)),
                        only if only is not self.mixed else None,
                    )
                )
                is_inside = False
                commit_lsn = None
                changes = []
                only = None
                at = end
            elif kind == 82:  # R
                self.tell(assembler, commit_lsn, xid, is_first, changes, only, position)
                assembler._describe(frames[at + KIND_AT : end], events)
                is_first = assembler._is_first
                if assembler._changes is not changes:
                    changes = assembler._changes
                    only = None
                    fragment_at = end
                at = end
            elif kind == 84:  # T
                self.tell(assembler, commit_lsn, xid, is_first, changes, only, position)
                assembler._truncate(frames[at + KIND_AT : end])
                if position != <long long>assembler._position:
                    only = self.mixed
                position = assembler._position
                at = end
            elif kind == 89 or kind == 79 or kind == 77:  # Y, O, M
                at = end
            else:
                raise DecodeError(f"not a message of pgoutput: it begins with {bytes((kind,))!r}")
        self.tell(assembler, commit_lsn, xid, is_first, changes, only, position)
        assembler._close_fragment(events)

    cdef int tell(
        self, assembler, commit_lsn, uint32_t xid, bint is_first, list changes, only, long long position
    ) except -1:
        """
        Put the state where the assembler has it.
        """
        assembler._commit_lsn = commit_lsn
        assembler._xid = xid
        assembler._is_first = is_first
        assembler._changes = changes
        assembler._only = only
        assembler._position = position
        return 0


# --- writing ---------------------------------------------------------------------------------------------------------

cdef uint8_t *_buffer = NULL
cdef Py_ssize_t _capacity = 0
cdef Py_ssize_t _filled = 0
cdef const char *_HEX = b"0123456789abcdef"
# For each byte: 0 as it is, 1 as \u00xx, else the letter behind the backslash.
cdef uint8_t[256] _ESCAPES


cdef void _fill_escapes() noexcept:
    cdef int code
    for code in range(256):
        _ESCAPES[code] = 1 if code < 32 else 0
    _ESCAPES[8] = 98
    _ESCAPES[9] = 116
    _ESCAPES[10] = 110
    _ESCAPES[12] = 102
    _ESCAPES[13] = 114
    _ESCAPES[34] = 34
    _ESCAPES[92] = 92


_fill_escapes()


cdef int _grow(Py_ssize_t more) except -1:
    global _buffer, _capacity
    cdef Py_ssize_t wanted = max(_filled + more, 2 * _capacity, 4096)
    cdef void *larger = PyMem_Realloc(_buffer, wanted)
    if larger == NULL:
        raise MemoryError
    _buffer = <uint8_t *>larger
    _capacity = wanted
    return 0


cdef inline int _put(const void *data, Py_ssize_t size) except -1:
    global _filled
    if _capacity - _filled < size:
        _grow(size)
    memcpy(_buffer + _filled, data, size)
    _filled += size
    return 0


cdef inline int _put_bytes(bytes data) except -1:
    return _put(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef int _put_escaped(const uint8_t *data, Py_ssize_t size, bint doubles_slashes) except -1:
    """
    Write a text as the inside of a JSON string; in keys every slash is doubled.
    """
    global _filled
    cdef Py_ssize_t at = 0, start = 0
    cdef uint8_t code, escape
    cdef uint8_t *to
    while True:
        while at < size:
            code = data[at]
            if _ESCAPES[code] or (doubles_slashes and code == 47):
                break
            at += 1
        if _capacity - _filled < at - start + 6:
            _grow(at - start + 6)
        memcpy(_buffer + _filled, data + start, at - start)
        _filled += at - start
        if at == size:
            return 0
        to = _buffer + _filled
        code = data[at]
        escape = _ESCAPES[code]
        if escape == 0:
            to[0] = 47
            to[1] = 47
            _filled += 2
        elif escape == 1:
            to[0] = 92
            to[1] = 117
            to[2] = 48
            to[3] = 48
            to[4] = _HEX[code >> 4]
            to[5] = _HEX[code & 15]
            _filled += 6
        else:
            to[0] = 92
            to[1] = escape
            _filled += 2
        at += 1
        start = at


cdef int _put_number(long long number) except -1:
    cdef char[24] digits
    cdef int at = 24
    # Positions are counted from 0.
    while True:
        at -= 1
        digits[at] = <char>(48 + number % 10)
        number //= 10
        if number == 0:
            break
    return _put(&digits[at], 24 - at)


cdef int _put_value(StreamRow row, Place place) except -1:
    cdef Span span = row.spans[place.index]
    if span.size == NULL_SIZE:
        return _put(<const char *>b"null", 4)
    _put(<const char *>b'"', 1)
    if place.is_plain:
        _put(row.text + span.at, span.size)
    else:
        _put_escaped(row.text + span.at, span.size, False)
    return _put(<const char *>b'"', 1)


cdef inline bint _is_same(StreamRow old, StreamRow new, Py_ssize_t index) noexcept:
    cdef Span one = old.spans[index], other = new.spans[index]
    if one.size != other.size:
        return False
    return one.size == NULL_SIZE or memcmp(old.text + one.at, new.text + other.at, one.size) == 0


cdef bytes _take():
    """
    Give what was written, and begin anew.
    """
    global _filled
    made = PyBytes_FromStringAndSize(<const char *>_buffer, _filled)
    _filled = 0
    _give_back()
    return made


cdef void _give_back() noexcept:
    """
    Free the buffer if it has become large.
    """
    global _buffer, _capacity
    if _capacity > KEPT_BYTES_MAX:
        PyMem_Free(_buffer)
        _buffer = NULL
        _capacity = 0


cdef struct End:
    # What ends the headers of the messages of one transaction.
    const char *text
    Py_ssize_t size


cdef inline End _end_of(bytes end) noexcept:
    cdef End made
    made.text = PyBytes_AS_STRING(end)
    made.size = PyBytes_GET_SIZE(end)
    return made


cdef class _Columns:
    """
    Columns in the order in which they are written, each with the text before its value.
    """

    cdef Py_ssize_t count
    cdef Place *places
    cdef list labels

    def __cinit__(self, columns):
        self.count = len(columns)
        self.places = <Place *>PyMem_Malloc(max(1, self.count) * sizeof(Place))
        if self.places == NULL:
            raise MemoryError
        self.labels = []
        for number, (index, label, is_plain) in enumerate(columns):
            self.places[number].index = index
            self.places[number].is_plain = is_plain
            self.labels.append(<bytes?>label)

    def __dealloc__(self):
        PyMem_Free(self.places)

    cdef int put_all(self, StreamRow row) except -1:
        """
        Write all of them with commas between.
        """
        cdef Py_ssize_t number
        for number in range(self.count):
            if number:
                _put(<const char *>b",", 1)
            _put_bytes(<bytes>self.labels[number])
            _put_value(row, self.places[number])
        return 0

    cdef Py_ssize_t put_changed(self, StreamRow old, StreamRow new, StreamRow shown, bint has_some) except -1:
        """
        Write those that differ, from one of the rows; tell how many.
        """
        cdef Py_ssize_t number, changed = 0
        for number in range(self.count):
            if _is_same(old, new, self.places[number].index):
                continue
            if has_some or changed:
                _put(<const char *>b",", 1)
            changed += 1
            _put_bytes(<bytes>self.labels[number])
            _put_value(shown, self.places[number])
        return changed

    cdef bint is_same(self, StreamRow old, StreamRow new) noexcept:
        cdef Py_ssize_t number
        for number in range(self.count):
            if not _is_same(old, new, self.places[number].index):
                return False
        return True

    cdef Py_ssize_t highest(self) noexcept:
        cdef Py_ssize_t number, highest = -1
        for number in range(self.count):
            highest = max(highest, self.places[number].index)
        return highest


@cython.final
cdef class RowWriter:
    """
    Makes the messages of one table's changes for one projection, as the generated functions of `wire.rows` do.
    """

    cdef bytes relation, insert_headers, update_headers, delete_headers
    cdef _Columns keys, selected, others
    cdef bint is_full
    cdef Py_ssize_t columns_count_min

    def __init__(
        self,
        bytes relation not None,
        bytes insert_headers not None,
        bytes update_headers not None,
        bytes delete_headers not None,
        keys,
        selected,
        others,
        bint is_full,
    ):
        """
        Prepare to write.

        Args:
            relation: the beginning of every key, escaped.
            insert_headers: the constant beginning of an insert's headers; likewise the next two.
            update_headers: of an update's.
            delete_headers: of a delete's.
            keys: places of the key columns in a row, their labels, and whether their values need no escaping.
            selected: those of all that is served.
            others: those of what is served besides the key.
            is_full: whether updates and deletes carry the whole row.
        """
        self.relation = relation
        self.insert_headers = insert_headers
        self.update_headers = update_headers
        self.delete_headers = delete_headers
        self.keys = _Columns(keys)
        self.selected = _Columns(selected)
        self.others = _Columns(others)
        self.is_full = is_full
        self.columns_count_min = 1 + max(self.keys.highest(), self.selected.highest(), self.others.highest())

    cdef StreamRow check(self, row):
        cdef StreamRow checked = _from_values(row)
        if checked.count < self.columns_count_min:
            raise IndexError("a row has fewer columns than its description")
        return checked

    cdef int put_key(self, StreamRow row) except -1:
        cdef Py_ssize_t number
        cdef Span span
        _put_bytes(self.relation)
        for number in range(self.keys.count):
            span = row.spans[self.keys.places[number].index]
            if span.size == NULL_SIZE:
                _put(<const char *>b"/_", 2)
            else:
                _put(<const char *>b'/\\"', 3)
                if self.keys.places[number].is_plain:
                    _put(row.text + span.at, span.size)
                else:
                    _put_escaped(row.text + span.at, span.size, True)
                _put(<const char *>b'\\"', 2)
        return 0

    cdef int put_start(self, StreamRow row) except -1:
        _put(<const char *>b'{"key":"', 8)
        self.put_key(row)
        return _put(<const char *>b'","value":{', 11)

    cdef int put_end(self, End *end, long long op) except -1:
        _put(end.text, end.size)
        _put_number(op)
        return _put(<const char *>b"}}", 2)

    cdef int put_insert(self, StreamRow new, End *end, long long op) except -1:
        self.put_start(new)
        self.selected.put_all(new)
        _put(<const char *>b"}", 1)
        _put_bytes(self.insert_headers)
        return self.put_end(end, op)

    cdef int put_delete(self, StreamRow old, End *end, long long op) except -1:
        self.put_start(old)
        (self.selected if self.is_full else self.keys).put_all(old)
        _put(<const char *>b"}", 1)
        _put_bytes(self.delete_headers)
        return self.put_end(end, op)

    cdef bint put_update(self, StreamRow before, StreamRow after, End *end, long long op) except -1:
        """
        Write the message of an update that leaves the key as it is; tell whether there is anything to say.
        """
        global _filled
        cdef Py_ssize_t start = _filled, changed
        self.put_start(after)
        if self.is_full:
            self.selected.put_all(after)
            _put(<const char *>b'},"old_value":{', 15)
            changed = self.others.put_changed(before, after, before, False)
        else:
            self.keys.put_all(after)
            changed = self.others.put_changed(before, after, after, True)
        if not changed:
            _filled = start
            return False
        _put(<const char *>b"}", 1)
        _put_bytes(self.update_headers)
        self.put_end(end, op)
        return True

    cdef int put_gone(self, StreamRow old, StreamRow new, End *end, long long op) except -1:
        """
        Write the first message of a changed key.
        """
        self.put_start(old)
        (self.selected if self.is_full else self.keys).put_all(old)
        _put(<const char *>b"}", 1)
        _put_bytes(self.delete_headers)
        _put(<const char *>b',"key_change_to":"', 18)
        self.put_key(new)
        _put(<const char *>b'"', 1)
        return self.put_end(end, op)

    cdef int put_come(self, StreamRow old, StreamRow new, End *end, long long op) except -1:
        """
        Write the second.
        """
        self.put_start(new)
        self.selected.put_all(new)
        _put(<const char *>b"}", 1)
        _put_bytes(self.insert_headers)
        _put(<const char *>b',"key_change_from":"', 20)
        self.put_key(old)
        _put(<const char *>b'"', 1)
        return self.put_end(end, op + 1)

    def insert(self, row, bytes end not None, long long op):
        """
        Make the message of a row that came.
        """
        global _filled
        cdef End tail = _end_of(end)
        _filled = 0
        self.put_insert(self.check(row), &tail, op)
        return ((op, _take()),)

    def delete(self, row, bytes end not None, long long op):
        """
        Make the message of a row that went.
        """
        global _filled
        cdef End tail = _end_of(end)
        _filled = 0
        self.put_delete(self.check(row), &tail, op)
        return ((op, _take()),)

    def update(self, old, new, bytes end not None, long long op):
        """
        Make the messages of a row that changed: none, one, or two when its key changed.
        """
        global _filled
        cdef StreamRow before = self.check(old), after = self.check(new)
        cdef End tail = _end_of(end)
        _filled = 0
        if self.keys.is_same(before, after):
            return ((op, _take()),) if self.put_update(before, after, &tail, op) else ()
        self.put_gone(before, after, &tail, op)
        gone = _take()
        self.put_come(before, after, &tail, op)
        return ((op, gone), (op + 1, _take()))

    def messages(self, changes not None, relation, bytes end not None):
        """
        Make the messages of many changes; see `wire.rows.RowEncoder.messages`.
        """
        global _filled
        cdef list made = []
        cdef StreamRow before, after
        cdef End tail = _end_of(end)
        cdef long long op
        for change in changes:
            if change.relation is not relation or change.is_old_missing:
                return None
            old, new = change.old, change.new
            op = change.op_position
            _filled = 0
            if old is None:
                if new is None:
                    return None
                self.put_insert(self.check(new), &tail, op)
            elif new is None:
                self.put_delete(self.check(old), &tail, op)
            else:
                before, after = self.check(old), self.check(new)
                if not self.keys.is_same(before, after):
                    made += <tuple>self.update(before, after, end, op)
                    continue
                if not self.put_update(before, after, &tail, op):
                    continue
            made.append(_message(op, 0, _filled))
        _filled = 0
        _give_back()
        return made

    def transactions(self, list fragments not None):
        """
        Make the messages of whole transactions, the last of each marked; see `wire.rows.RowEncoder.transactions`.
        """
        global _filled
        cdef list made = [], plain, changes
        cdef StreamRow before, after
        cdef char[96] text
        cdef End end
        cdef long long op, pending_op
        # The newest message waits in the buffer until it is known whether it is the last; -1 for none.
        cdef Py_ssize_t pending, past
        end.text = text
        for fragment in fragments:
            commit = fragment.commit_lsn.value
            end.size = snprintf(
                text, sizeof(text), b',"txids":[%u],"lsn":"%llu","op_position":',
                <unsigned int>fragment.xid, <unsigned long long>commit,
            )
            changes = fragment.changes
            plain = None
            pending = -1
            pending_op = 0
            _filled = 0
            for change in changes:
                if change.is_old_missing:
                    return None
                op = change.op_position
                old, new = change.old, change.new
                past = _filled
                if old is None:
                    if new is None:
                        return None
                    self.put_insert(self.check(new), &end, op)
                elif new is None:
                    self.put_delete(self.check(old), &end, op)
                else:
                    before, after = self.check(old), self.check(new)
                    if self.keys.is_same(before, after):
                        if not self.put_update(before, after, &end, op):
                            continue
                    else:
                        self.put_gone(before, after, &end, op)
                        plain = _append(plain, pending, past, pending_op)
                        pending, pending_op, past = past, op, _filled
                        self.put_come(before, after, &end, op)
                        op += 1
                plain = _append(plain, pending, past, pending_op)
                pending, pending_op = past, op
            if pending < 0:
                continue
            _filled -= 2
            _put(<const char *>b',"last":true}}', 14)
            last = _message(pending_op, pending, _filled)
            if plain is None:
                made.append((commit, (last,)))
            else:
                plain.append(last)
                made.append((commit, plain))
        _filled = 0
        _give_back()
        return made


cdef list _append(list plain, Py_ssize_t pending, Py_ssize_t past, long long op):
    """
    Add the message that waits in the buffer, if one does: another came behind it.
    """
    if pending < 0:
        return plain
    if plain is None:
        plain = []
    plain.append(_message(op, pending, past))
    return plain


cdef inline tuple _message(long long op, Py_ssize_t start, Py_ssize_t past):
    """
    Make an element of a part of the buffer. The collector of cyclic garbage would find out later that it need not look
    at a number and a piece of bytes; it is told now, as there are many.
    """
    made = (op, PyBytes_FromStringAndSize(<const char *>_buffer + start, past - start))
    PyObject_GC_UnTrack(<void *>made)
    return made
