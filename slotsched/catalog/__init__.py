"""Job files: found in a folder, read without ever running them, checked; and what tasks may give them.

A file that cannot be used disables that one job, visibly, and nothing else.
"""

from slotsched.catalog.arguments import check_arguments, parse_words, placeholder
from slotsched.catalog.folder import Folder, Scan
from slotsched.catalog.storable import refuse_unstorable
from slotsched.model import Broken

__all__ = [
    "Broken",
    "Folder",
    "Scan",
    "check_arguments",
    "parse_words",
    "placeholder",
    "refuse_unstorable",
]
