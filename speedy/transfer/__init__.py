"""The client for huge images: `speedy push` and `speedy pull`, which go on where they were cut off.

    transfers.py      both transfers from end to end          documents.py      descriptors, manifests, indexes
    pushing.py        blobs, manifests, then the name         closure.py        all that a name stands for
    pulling.py        the same into an OCI layout             referrers.py      signatures, SBOMs
    uploading.py      one blob up                             content.py        bytes of a blob in a local file
    downloading.py    one blob down                           layout.py         an OCI layout directory
    parallel.py       several blobs at once                   sources.py        what a push reads from
    patience.py       bounded retries, stopping               docker_archive.py what docker save wrote, as a source
    cache.py          what the next run has to know           compression.py    its layers as gzip, and back
    places.py         what SRC and DEST may be                packing.py        archives, written
    remote.py         how a registry is reached               staging.py        a layout on the way to an archive
    connection.py     one registry over HTTP                  daemon.py         docker save, docker load
    authorization.py  Basic and Bearer for it                 progress.py       bars, lines, JSON
    credentials.py    docker's configuration, helpers         outcome.py        what was done, in numbers
    repository.py     the calls of the OCI API                errors.py         what can go wrong

Nothing here serves anybody: the rooms never import it, and it knows of a registry only what the OCI specification says.
"""
