"""One process writes, any number of processes read: all frames in order, or only the newest value.

broadcast.py     Broadcast: publishes frames over the oldest ones, and makes subscriptions
subscription.py  Subscription: one reader of a broadcast, with its position and its losses
latest.py        Latest: the newest value, in one of four cells
one_writer.py    OneWriter: what Broadcast and Latest share: creating, closing, the role, waiting
"""

from shmkit.channels.fanout.broadcast import Broadcast, BroadcastStatistics
from shmkit.channels.fanout.latest import Latest, LatestStatistics
from shmkit.channels.fanout.subscription import Subscription, SubscriptionStatistics

__all__ = [
    "Broadcast",
    "BroadcastStatistics",
    "Latest",
    "LatestStatistics",
    "Subscription",
    "SubscriptionStatistics",
]
