"""Health check of the container image: ends with 0 when the room says that it can serve, else tells why not.

python3 -I healthcheck.py http://127.0.0.1:5000/readyz
"""

import http.client
import sys
from urllib.parse import urlsplit

TIMEOUT_S = 4.0
ANSWER_BYTES_MAX = 500


def main() -> int:
    url = urlsplit(sys.argv[1])
    connection = http.client.HTTPConnection(url.hostname or "127.0.0.1", url.port or 80, timeout=TIMEOUT_S)
    try:
        connection.request("GET", url.path)
        answer = connection.getresponse()
        text = answer.read(ANSWER_BYTES_MAX).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"{sys.argv[1]}: {error}")
        return 1
    finally:
        connection.close()
    print(text)
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
