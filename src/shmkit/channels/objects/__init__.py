"""Objects through memory.

queue        Queue and JoinableQueue: the standard library's verbs
queue_ring   the rings they are made of: maxsize, tasks done
object_ring  a ring whose frames are objects
tally        exactly how many objects went in and came out
codec        objects as bytes: large buffers beside the pickle
overflow     memory of their own for objects larger than their ring
"""
