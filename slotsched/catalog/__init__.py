"""Job files: found in a folder, read without ever running them, checked; and what tasks may give them.

A file that cannot be used disables that one job, visibly, and nothing else.
"""

from slotsched.catalog.arguments import check_arguments, placeholder, read_words
from slotsched.catalog.check import Finding, check_scan
from slotsched.catalog.folder import Folder, Scan
from slotsched.catalog.storable import refuse_unstorable
from slotsched.catalog.template import NewJob, new_job
from slotsched.model import Broken

__all__ = [
    "Broken",
    "Finding",
    "Folder",
    "NewJob",
    "Scan",
    "check_arguments",
    "check_scan",
    "new_job",
    "placeholder",
    "read_words",
    "refuse_unstorable",
]
