"""File locks as NFS 4 has them: only what may be written is locked for one process alone, only what may be read is shared."""

import errno
import fcntl
import os

local_flock = fcntl.flock


def nfs_flock(file, operation):
    """`fcntl.flock` of a file on NFS: by POSIX locks, which ask for a handle that may do what they stand for."""
    handle = file if isinstance(file, int) else file.fileno()
    access = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE
    if (operation & fcntl.LOCK_EX and access == os.O_RDONLY) or (operation & fcntl.LOCK_SH and access == os.O_WRONLY):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    local_flock(file, operation)
