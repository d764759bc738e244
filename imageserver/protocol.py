"""What app.py and client.py must agree on besides the paths that app.py lists."""

from __future__ import annotations

#: CRC-32C of a payload or of the part that is sent, 8 hexadecimal digits, in both directions
CRC_HEADER = "Speedy-Crc32c"

#: references in one delete request
DELETE_MAX = 1000
