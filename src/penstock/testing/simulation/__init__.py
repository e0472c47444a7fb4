"""
The whole of Penstock in one process and one thread, over a virtual clock, disk, database and network.

`loop` schedules, `threads` stands for threads and their locks, `disk`, `control` and `postgres` for the outside,
`seams` puts all of them in the place of the real ones, `machine` starts, stops and kills the roles. One seed is one
history: whatever happens twice with the same seed happens in the same way.
"""
