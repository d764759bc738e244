"""What app.py and client.py must agree on besides the paths that app.py lists."""

from __future__ import annotations

#: references in one delete request
DELETE_MAX = 1000
