"""
The engine role: from the relay log to shape logs, and the flush boundary back.

Joins collector, consumers, shape logs, control store and database connections, and keeps the one order that matters
here (O2, O7, O8 of the design):

    every debt up to a boundary discharged  <  boundary in the control store  <  boundary on the board
    row that begins an epoch                <  first read of that epoch's relay log
    everything settled                      <  boundary recorded  <  mark of a clean stop

Whoever reads the board (the receiver trims segments, and in `shapes` mode confirms) relies on that order. The first line
is kept by `recorder`, the second by `recorder` and `reading`, the third by `engine`. Shells; they decide nothing about
data.
"""
