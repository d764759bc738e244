"""The client for huge images: `speedy push` and `speedy pull`, which go on where they were cut off.

    places.py        what SRC and DEST may be               documents.py    descriptors, manifests, indexes
    credentials.py   docker's configuration, helpers         closure.py      everything that a name stands for
    authorization.py Basic and Bearer for one registry       content.py      bytes of a blob in a local file
    connection.py    one registry over HTTP                  layout.py       an OCI layout directory
    repository.py    the calls of the OCI API                archives.py     oci-archive and docker-archive, read
    cache.py         what the next run has to know           packing.py      the same, written
    patience.py      bounded retries, stopping               daemon.py       docker save, docker load
    uploading.py     one blob up                             progress.py     bars, lines, JSON
    downloading.py   one blob down                           pushing.py, pulling.py   all of it together

Nothing here serves anybody: the rooms never import it, and it knows of a registry only what the OCI
specification says.
"""
