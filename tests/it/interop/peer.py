#!/usr/bin/env python3
"""An end of a wakering channel, in either role, written from the specification alone.

It is the specification's "smallest correct peer": it uses Python's standard library and ctypes, one
thread, one `poll`, no batches, and no jump except at the ring's end. The tests run the library
against it, so that the specification stays complete and true. Comments name its sections.

    peer.py check
    peer.py engine|application PATH RING_BYTES LONGEST TASK...

`check` says whether this machine can run it. An engine takes the name PATH and makes a region with
rings of RING_BYTES. An application connects to PATH. Packets are numbered from 0 in each direction.
The number and LONGEST determine a packet's length and content. The tasks run one after the other:

    swap=N         send N packets and receive N, both at the same time
    send=N         send N packets
    receive=N      receive N packets
    receive-all    receive until the end, and say how it ended
    send-all       send until that fails, and say why
    echo           send each packet back until the end, and say how it ended
    discard-all    receive any packets until the end, and say how it ended
    pause          wait for a line on standard input
    half-close     send no more
    deafen         receive no more
    close          end both directions in order
    cancel         cut the channel off
    corrupt        store a header of an unknown kind, and ring
    cycle          publish an empty packet and a marker after it that leads back, and half-close

Its standard output goes to the test that started it.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import select
import socket
import stat
import struct
import sys
import time

# Terms and conventions; side blocks; ends; bells.
HEADER_BYTES = 4096
FACE, HANDLE = 0x080, 0x380
WAITING, BELL, ENDS, HEAD, TAKEN, WANTS = 0x000, 0x004, 0x080, 0x100, 0x180, 0x200
RECV, SEND = 1, 2
TX_CLOSED, RX_CLOSED, CANCELLED, RING_BY_BYTE = 1, 2, 4, 8
PACKET, JUMP = 1 << 32, 2 << 32
MOST_WAITERS = 1024
U32, U64 = (1 << 32) - 1, (1 << 64) - 1

MAGIC, VERSION, MESSAGE = b"wakering", 1, struct.Struct("=8sIIQII")
TMPFS = 0x01021994
F_ADD_SEALS, F_GET_SEALS, SEALS = 1033, 1034, 1 | 2 | 4  # SEAL, SHRINK, GROW
SO_PASSRIGHTS = 83
ADDRESS_BYTES = 107

libc = ctypes.CDLL(None, use_errno=True)


class Skip(Exception):
    """This machine cannot run the peer."""


class Code:
    """Atomic operations: a few instructions in an executable page. On x86-64 every load is an
    acquire load, every store is a release store, and every locked instruction is a full fence."""

    def __init__(self):
        if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize <= U32:
            raise Skip(f"its atomics are x86-64 code, and this is {platform.machine()}")
        if sys.version_info < (3, 8):
            raise Skip(f"Python {sys.version_info[0]}.{sys.version_info[1]} has no memfd_create")
        half, word, address = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
        exchange = "f00fb10f 75f6 c3"  # lock cmpxchg [rdi], ecx; jne; ret
        functions = [
            ("load32", "8b07 c3", half, [address]),
            ("load64", "488b07 c3", word, [address]),
            ("store64", "488937 c3", None, [address, word]),
            ("fetch_or32", "8b07 89c1 09f1" + exchange, half, [address, half]),
            ("fetch_and32", "8b07 89c1 21f1" + exchange, half, [address, half]),
            ("fetch_add32", "89f0 f00fc107 c3", half, [address, half]),
            ("fence", "0faef0 c3", None, []),
        ]
        try:
            rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
            self.page = mmap.mmap(-1, mmap.PAGESIZE, prot=rights)
        except OSError as error:
            raise Skip(f"no executable page: {error}") from error
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.page))
        for number, (name, code, result, arguments) in enumerate(functions):
            at = 32 * number
            code = bytes.fromhex(code)
            self.page[at : at + len(code)] = code
            setattr(self, name, ctypes.PYFUNCTYPE(result, *arguments)(begin + at))


def futex_wake(address, count):
    system_call, wake_shared = 202, 1
    libc.syscall(
        ctypes.c_long(system_call),
        ctypes.c_void_p(address),
        ctypes.c_int(wake_shared),
        ctypes.c_int(count),
        None,
        None,
        ctypes.c_int(0),
    )


class Ended(Exception):
    """A direction has ended. `how` is orderly, cancelled, died, or violation with its cause."""

    def __init__(self, how):
        super().__init__(how)
        self.how = how


def record(length):
    return (8 + length + 7) & ~7


def reached(a, b):
    return (a - b) & U64 < 1 << 63


class End:
    """One end of a channel: "The smallest correct peer"."""

    def __init__(self, code, file, line, mine):
        self.code, self.line, self.mine = code, line, mine
        self.theirs = FACE + HANDLE - mine
        self.join(file)
        os.close(file)
        self.tail = self.position = self.look_at = self.announced = 0
        self.seen = {HEAD: 0, TAKEN: 0}
        self.hung_up = self.is_over = False
        self.left = None
        self.heeded = RING_BY_BYTE
        self.jumps = 0
        self.poll = select.poll()
        self.poll.register(line, select.POLLIN)
        # Ask to be woken by bytes.
        code.fetch_or32(self.at + mine + ENDS, RING_BY_BYTE)
        code.fence()
        if self.code.load32(self.at + self.theirs + ENDS) & RING_BY_BYTE:
            self.send_byte()

    def join(self, file):
        """Maps the region, after the checks of the joining side. (An engine's region passes too.)"""
        assert fcntl.fcntl(file, F_GET_SEALS) & SEALS == SEALS, "not sealed"
        statfs = (ctypes.c_long * 64)()
        assert libc.fstatfs(file, statfs) == 0 and statfs[0] == TMPFS, "not on tmpfs"
        size = os.fstat(file).st_size
        assert size >= HEADER_BYTES + 2 * 4096, "too small"
        self.memory = mmap.mmap(file, size)
        self.at = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        load64 = self.code.load64
        assert self.memory[:8] == MAGIC and self.code.load32(self.at + 0x008) == VERSION
        assert (load64(self.at + 0x010), load64(self.at + 0x018)) == (HEADER_BYTES, 0)
        assert load64(self.at + 0x020) == size
        self.ring_bytes = size_of_ring = load64(self.at + 0x028)
        self.max_packet = load64(self.at + 0x030)
        assert size_of_ring & (size_of_ring - 1) == 0 and 4096 <= size_of_ring <= 1 << 30
        assert size == HEADER_BYTES + 2 * size_of_ring
        assert 1 <= self.max_packet <= size_of_ring // 4 - 8
        rings = [HEADER_BYTES, HEADER_BYTES + size_of_ring]
        self.tx, self.rx = rings if self.mine == FACE else reversed(rings)

    def offset(self, position):
        return position & (self.ring_bytes - 1)

    # Bells.

    def send_byte(self):
        try:
            self.line.send(b"\x01", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            pass  # With a full buffer, the peer wakes anyway. Any other error shows as a hang-up.

    def ring(self):
        bell = self.at + self.theirs + BELL
        self.code.fetch_add32(bell, 1)
        self.code.fence()
        futex_wake(bell, MOST_WAITERS)
        if self.code.load32(self.at + self.theirs + ENDS) & RING_BY_BYTE:
            self.send_byte()

    def wake(self, bit):
        waiting = self.at + self.theirs + WAITING
        self.code.fence()
        if self.code.load32(waiting) & bit and self.code.fetch_and32(waiting, ~bit & U32) & bit:
            self.ring()

    def sleep(self, for_packets, need):
        code, waiting = self.code, self.at + self.mine + WAITING
        wants = (self.tail + need - self.ring_bytes) & U64
        if need:
            code.store64(self.at + self.mine + WANTS, wants)
        bits = (RECV if for_packets else 0) | (SEND if need else 0)
        old = code.fetch_or32(waiting, bits)
        if need and (not old & SEND or wants != self.announced):
            self.look_at = time.monotonic() + 0.001
            self.announced = wants
        code.fence()
        if for_packets:
            self.wake(SEND)
        if need:
            self.wake(RECV)
        has_packet = for_packets and code.load64(self.at + self.rx + self.offset(self.position))
        if has_packet or need and self.has_room(need) or self.their_ends() & ~self.heeded:
            code.fetch_and32(waiting, ~bits & U32)
            return
        left = self.look_at - time.monotonic() if need else 0
        self.poll.poll(left * 1000 if left > 0 else None)
        while not self.hung_up:
            try:
                self.hung_up = not self.line.recv(64, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                self.hung_up = True

    # Ends.

    def their_ends(self):
        ends = self.code.load32(self.at + self.theirs + ENDS)
        if ends & ~15:
            self.violation(f"ends {ends:#x}")
        return ends

    def end(self, flags):
        self.code.fetch_or32(self.at + self.mine + ENDS, flags)
        self.ring()

    def cancel(self):
        self.end(CANCELLED)
        self.line.shutdown(socket.SHUT_RDWR)
        self.is_over = True

    def close(self):
        self.end(TX_CLOSED | RX_CLOSED)
        self.line.shutdown(socket.SHUT_RDWR)
        self.is_over = True

    def violation(self, what):
        self.cancel()
        raise Ended(f"violation: {what}")

    # The producer.

    def pad(self, length):
        rest = self.ring_bytes - self.offset(self.tail)
        return rest if record(length) > rest else 0

    def need(self, length):
        return self.pad(length) + record(length) + 8

    def has_room(self, need):
        for word, seen in self.seen.items():
            claim = self.code.load64(self.at + self.theirs + word)
            if claim % 8 or not reached(claim, seen) or not reached(self.tail, claim):
                self.violation(f"head {claim:#x}, after {seen:#x}, tail {self.tail:#x}")
            self.seen[word] = claim
        head, taken = self.seen.values()
        freed = head if reached(head, taken) else taken
        return need <= self.ring_bytes - ((self.tail - freed) & U64)

    def try_send(self, packet):
        """Sends the packet if there is room, and returns whether there was."""
        ends = self.their_ends()
        self.heeded |= ends & (RX_CLOSED | CANCELLED)
        if ends & CANCELLED:
            raise Ended("cancelled")
        if ends & RX_CLOSED:
            raise Ended("orderly")
        if self.hung_up:
            raise Ended("died")
        length = len(packet)
        if not self.has_room(self.need(length)):
            return False
        store, ring = self.code.store64, self.at + self.tx
        begin = (self.tail + self.pad(length)) & U64
        behind = (begin + record(length)) & U64
        store(ring + self.offset(behind), 0)
        at = self.tx + self.offset(begin) + 8
        self.memory[at : at + length] = packet
        store(ring + self.offset(begin), PACKET | length)
        if begin != self.tail:
            store(ring + self.offset(self.tail), JUMP)
        self.tail = behind
        self.wake(RECV)
        return True

    # The consumer.

    def take(self):
        load, ring = self.code.load64, self.at + self.rx
        header = load(ring + self.offset(self.position))
        if header == 0:
            return None
        marker = 0
        if header >> 32 == 2:
            to, marker = header & U32, 8
            if to % 8 or to >= self.ring_bytes:
                self.violation(f"jump to {to:#x}")
            way = (to - self.offset(self.position)) % self.ring_bytes
            self.position = (self.position + way) & U64
            self.jumps += 1
            header = load(ring + to)
        length, at = header & U32, self.offset(self.position)
        if header >> 32 != 1 or length > self.max_packet:
            self.violation(f"header {header:#x}")
        if record(length) > self.ring_bytes - at:
            self.violation(f"{length} bytes at {at:#x}")
        at += self.rx + 8
        packet = self.memory[at : at + length]
        if self.left is not None:
            self.left -= marker + record(length)
            if self.left < 0:
                self.violation("a ring without an end")
        self.position = (self.position + record(length)) & U64
        self.code.store64(self.at + self.mine + TAKEN, self.position)
        self.code.store64(self.at + self.mine + HEAD, self.position)
        if self.code.load32(self.at + self.theirs + WAITING) & SEND:
            if reached(self.position, load(self.at + self.theirs + WANTS)):
                self.wake(SEND)
        return packet

    def try_recv(self):
        """Returns a packet, or None if there is none now."""
        over = self.hung_up  # Before the ends are loaded.
        ends = self.their_ends()
        self.heeded |= ends & (TX_CLOSED | CANCELLED)
        if ends & CANCELLED:
            raise Ended("cancelled")
        if self.left is None and (ends & TX_CLOSED or over):
            self.left = self.ring_bytes
        packet = self.take()
        if packet is None and self.left is not None:
            raise Ended("orderly" if ends & TX_CLOSED else "died")
        return packet


# The socket.


def new_socket():
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def refuse_descriptors(line):
    try:
        line.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        pass  # Before Linux 6.16.


def is_trusted(line):
    """Whether the process at the other end belongs to our user or to root."""
    credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid = struct.unpack("=iII", credentials)[1]
    with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
        overflow = int(file.read())
    return uid == 0 or uid == os.geteuid() != overflow


def inode(status):
    return status.st_dev, status.st_ino


class Name:
    """A name that was taken for a socket: "Taking a name"."""

    def __init__(self, path):
        directory, self.file = os.path.split(path)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self.directory = os.open(directory, flags)
        status = os.fstat(self.directory)
        assert status.st_uid == os.geteuid() and status.st_mode & 0o022 == 0, "not our directory"
        try:
            fcntl.flock(self.directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        lock = self.lock(time.monotonic() + 2)
        try:
            self.probe()
            self.socket = new_socket()
            refuse_descriptors(self.socket)
            self.inode = self.bind()
        finally:
            self.unlock(lock)

    def lock(self, until):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        while True:
            lock = os.open(".lock", flags, 0o600, dir_fd=self.directory)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if inode(os.fstat(lock)) == inode(self.stat(".lock")):
                    return lock
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(lock)
            if time.monotonic() >= until:
                raise TimeoutError("the directory's lock")
            time.sleep(0.001)

    @staticmethod
    def unlock(lock):
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)

    def stat(self, file):
        return os.stat(file, dir_fd=self.directory, follow_symlinks=False)

    def through_proc(self, file):
        return f"/proc/thread-self/fd/{self.directory}/{file}"

    def probe(self):
        try:
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(self.file, flags, dir_fd=self.directory)
        except FileNotFoundError:
            return
        try:
            if not stat.S_ISSOCK(os.fstat(target).st_mode):
                raise OSError(errno.EADDRINUSE, "the name is in use")
            with new_socket() as probe:
                probe.setblocking(False)
                probe.connect(f"/proc/thread-self/fd/{target}")
        except ConnectionRefusedError:
            os.unlink(self.file, dir_fd=self.directory)
            return
        except BlockingIOError:
            pass  # A full backlog.
        finally:
            os.close(target)
        raise OSError(errno.EADDRINUSE, "the name is in use")

    def bind(self):
        real = os.readlink(f"/proc/thread-self/fd/{self.directory}") + "/" + self.file
        is_short = len(os.fsencode(real)) <= ADDRESS_BYTES
        file = self.file if is_short else ".wakering-new"
        if not is_short:
            try:
                if stat.S_ISSOCK(self.stat(file).st_mode):
                    os.unlink(file, dir_fd=self.directory)
            except FileNotFoundError:
                pass
        self.socket.bind(real if is_short else self.through_proc(file))
        try:
            status = self.stat(file)
            if is_short:
                assert stat.S_ISSOCK(status.st_mode)
                assert inode(os.stat(real, follow_symlinks=False)) == inode(status)
            os.chmod(self.through_proc(file), 0o600)
            self.socket.listen(16)
            if not is_short:
                directory = self.directory
                os.rename(file, self.file, src_dir_fd=directory, dst_dir_fd=directory)
            return inode(status)
        except BaseException:
            os.unlink(file, dir_fd=self.directory)
            raise

    def give_up(self):
        try:
            lock = self.lock(0)
            try:
                if inode(self.stat(self.file)) == self.inode:
                    os.unlink(self.file, dir_fd=self.directory)
            finally:
                self.unlock(lock)
        except OSError:
            pass  # The file that is left is stale. (TimeoutError is an OSError.)
        self.socket.close()
        os.close(self.directory)

    def accept(self, region):
        """Returns the lifeline of the only application that this engine serves."""
        while True:
            line, _ = self.socket.accept()
            line.settimeout(1)
            try:
                hello = line.recv(MESSAGE.size + 1)
                status = self.judge(line, hello)
                if status is None:
                    line.close()
                    continue
                answer = MESSAGE.pack(MAGIC, VERSION, 2, 0, status, 0)
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", region))]
                line.sendmsg([answer], rights if status == 0 else [], socket.MSG_NOSIGNAL)
                if status == 0:
                    return line
            except OSError:
                pass
            line.close()

    @staticmethod
    def judge(line, hello):
        """Returns the status of the answer, or None if this is not a hello."""
        if len(hello) != MESSAGE.size:
            return None
        magic, version, kind, _, *reserved = MESSAGE.unpack(hello)
        if magic != MAGIC or kind != 1 or version == VERSION and any(reserved):
            return None
        if not is_trusted(line):
            return 2
        return 0 if version == VERSION else 3


def new_region(ring_bytes):
    file = os.memfd_create("peer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    size = HEADER_BYTES + 2 * ring_bytes
    os.ftruncate(file, size)
    geometry = struct.pack(
        "=8sIIQQQQQ", MAGIC, VERSION, 0, HEADER_BYTES, 0, size, ring_bytes, ring_bytes // 4 - 8
    )
    assert os.pwrite(file, geometry, 0) == len(geometry)
    fcntl.fcntl(file, F_ADD_SEALS, SEALS)
    return file


def connect(path):
    """Returns the lifeline and the region's descriptor."""
    target = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    line = new_socket()
    line.settimeout(5)
    line.connect(f"/proc/thread-self/fd/{target}")
    os.close(target)
    assert is_trusted(line), "somebody else's engine"
    line.send(MESSAGE.pack(MAGIC, VERSION, 1, 0, 0, 0), socket.MSG_NOSIGNAL)
    answer, control, _, _ = line.recvmsg(
        MESSAGE.size + 1, socket.CMSG_SPACE(4 * 253), socket.MSG_CMSG_CLOEXEC
    )
    refuse_descriptors(line)
    passed = []
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            passed += [at for (at,) in struct.iter_unpack("=i", data)]
    for other in passed[1:]:
        os.close(other)
    assert len(answer) == MESSAGE.size, "junk"
    magic, version, kind, features, status, reserved = MESSAGE.unpack(answer)
    assert (magic, version, kind) == (MAGIC, VERSION, 2), "junk, or another version"
    assert (features, reserved) == (0, 0) and (status != 0 or passed), "junk"
    if status != 0:
        raise Ended({1: "busy", 2: "denied"}[status])
    return line, passed[0]


# What is not in the specification: the content of the packets, and the tasks.

CONTENT = bytes(7 * at & 255 for at in range(256))


class Traffic:
    """Numbered packets, both ways."""

    def __init__(self, end, longest):
        self.end, self.longest = end, min(longest, end.max_packet)
        self.content = CONTENT * (self.longest // 256 + 2)
        self.sent = self.received = 0
        self.waiting = None

    def packet(self, number):
        """Returns a packet of any length from 0 on, and often of the shortest or the longest.
        Byte `at` is `31 * number + 7 * at`."""
        mixed = (number + 1) * 0x9E3779B97F4A7C15 & U64
        mixed ^= mixed >> 32
        if mixed % 16 == 0:
            length = (mixed >> 8) % 2 * self.longest
        else:
            length = mixed % (self.longest + 1)
        begin = 31 * 183 * number & 255  # 7 * 183 is 1, modulo 256.
        return self.content[begin : begin + length]

    def send_some(self, most):
        """Sends some packets, and returns whether any were sent."""
        before = self.sent
        while self.sent < most:
            if self.waiting is None:
                self.waiting = self.packet(self.sent)
            if not self.end.try_send(self.waiting):
                break
            self.waiting = None
            self.sent += 1
        return self.sent > before

    def receive_some(self, most):
        """Receives some packets, and returns whether any were received."""
        before = self.received
        while self.received < most:
            packet = self.end.try_recv()
            if packet is None:
                break
            assert packet == self.packet(self.received), f"packet {self.received}"
            self.received += 1
        return self.received > before

    def run(self, send, receive):
        """Runs until this many packets were sent and received in all."""
        at_once = 64
        while self.sent < send or self.received < receive:
            received = self.receive_some(min(receive, self.received + at_once))
            sent = self.send_some(min(send, self.sent + at_once))
            if not sent and not received:
                need = 0 if self.waiting is None else self.end.need(len(self.waiting))
                self.end.sleep(self.received < receive, need if self.sent < send else 0)

    def echo(self):
        """Sends every packet back until the end."""
        end, waiting = self.end, None
        while True:
            if waiting is None:
                waiting = end.try_recv()
            if waiting is None:
                end.sleep(True, 0)
            elif end.try_send(waiting):
                waiting = None
                self.received += 1
            else:
                end.sleep(False, end.need(len(waiting)))


def say(*words):
    print("CHILD", *words, flush=True)


def perform(task, end, traffic):
    name, _, count = task.partition("=")
    count = int(count or 0)
    if name == "swap":
        traffic.run(traffic.sent + count, traffic.received + count)
        say("swapped")
    elif name == "send":
        traffic.run(traffic.sent + count, traffic.received)
        say("sent")
    elif name == "receive":
        traffic.run(traffic.sent, traffic.received + count)
        say("received")
    elif name == "receive-all":
        try:
            traffic.run(traffic.sent, U64)
        except Ended as ended:
            say("received", traffic.received, "then", ended.how)
    elif name == "send-all":
        try:
            traffic.run(U64, traffic.received)
        except Ended as ended:
            say("sent until", ended.how)
    elif name == "echo":
        try:
            traffic.echo()
        except Ended as ended:
            say("echoed", traffic.received, "then", ended.how)
    elif name == "discard-all":
        try:
            while True:
                if end.try_recv() is None:
                    end.sleep(True, 0)
        except Ended as ended:
            say("discarded until", ended.how)
    elif name == "pause":
        sys.stdin.readline()
    elif name == "half-close":
        end.end(TX_CLOSED)
    elif name == "deafen":
        end.end(RX_CLOSED)
    elif name == "corrupt":
        end.code.store64(end.at + end.tx + end.offset(end.tail), 3 << 32)
        end.ring()
    elif name == "cycle":
        begin, ring = end.offset(end.tail), end.at + end.tx
        end.code.store64(ring + begin + 8, JUMP | begin)
        end.code.store64(ring + begin, PACKET)
        end.end(TX_CLOSED)
    else:
        {"close": end.close, "cancel": end.cancel}[name]()


def main():
    try:
        code = Code()
    except Skip as why:
        return say("skip:", why)
    if sys.argv[1:] == ["check"]:
        return say("ready")
    libc.prctl(1, 9)  # This process must not outlive the test.
    role, path, ring_bytes, longest, *tasks = sys.argv[1:]
    if role == "engine":
        try:
            name = Name(path)
        except OSError as error:
            return say("no name:", errno.errorcode.get(error.errno, error))
        say("open")
        region = new_region(int(ring_bytes))
        line = name.accept(region)
        name.give_up()
        end = End(code, region, line, FACE)
    else:
        line, region = connect(path)
        end = End(code, region, line, HANDLE)
    line.settimeout(None)
    traffic = Traffic(end, int(longest))
    for task in tasks:
        perform(task, end, traffic)
    if not end.is_over:
        end.close()
    say("done after", end.jumps, "jumps")


if __name__ == "__main__":
    main()
