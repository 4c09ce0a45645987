"""State that processes share: a header, the table of participants, semaphores.

- `words`: every offset, magic, version and kind of every layout, in one table for each
- `header`: what a creator writes once, and the checks of an attacher
- `segment`: Segment: made, joined, left; the handshake of creators and attachers
- `located`: what every handle on a segment says of where it is
- `membership`: how a handle becomes a participant, and stops being one
- `participants`: the table in which each participant writes about itself
- `presence`: which participants are alive, told by locks that the kernel holds
- `semaphores`, `named_semaphores`: unnamed ones inside of a segment, and named ones
- `recovery`, `acquired`: what becomes of a lock when a participant died at it
- `fences`: memory order between processes
- `array`, `array_header`, `array_operators`: SharedArray: a header, and the items of a numpy array
"""
