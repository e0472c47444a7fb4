"""
The compiled core: rows from stream bytes to log bytes, where it was built for this machine.

`stream.pyx` is the core itself, `choice` says whether it is used. Stands on nothing, since both ends of the data's way
use it.
"""
