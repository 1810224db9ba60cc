defmodule Snakepit.Bench.Faults.Possible do
  @moduledoc false
  # The errors that a function may meet, as far as the sweep makes them: ENOMEM, EMFILE, ENOSPC, EPERM (what seccomp
  # answers), EINTR where a call may sleep, EAGAIN where it may not. close(2) and munmap(2) cannot fail as they are used here,
  # and what receives allocates nothing.

  @errnos %{"EPERM" => 1, "EINTR" => 4, "EAGAIN" => 11, "ENOMEM" => 12, "EMFILE" => 24, "ENOSPC" => 28}

  # Names of errors; with a class, where it depends on what the use is about.
  @memory ~w(ENOMEM EPERM)
  @new ~w(EMFILE ENOMEM EPERM)
  @receive [{"EINTR", :blocking}, {"EAGAIN", :nonblocking}]
  @send [{"ENOMEM", :keeping} | @receive]
  @path ~w(ENOSPC ENOMEM EPERM)

  @possible %{
    "memfd_create" => @new,
    "fallocate" => ~w(ENOSPC ENOMEM EPERM EINTR),
    "posix_fallocate" => ~w(ENOSPC ENOMEM EPERM EINTR),
    "fallocate64" => ~w(ENOSPC ENOMEM EPERM EINTR),
    "posix_fallocate64" => ~w(ENOSPC ENOMEM EPERM EINTR),
    "openat64" => ~w(EMFILE ENOMEM EPERM ENOSPC),
    "mmap" => ~w(ENOMEM EAGAIN EPERM),
    "mmap64" => ~w(ENOMEM EAGAIN EPERM),
    "mprotect" => @memory,
    "madvise" => ~w(ENOMEM EAGAIN EPERM),
    "fcntl" => ~w(EPERM),
    "fcntl64" => ~w(EPERM),
    "fstat" => @memory,
    "fstat64" => @memory,
    "open" => ~w(EMFILE ENOMEM EPERM ENOSPC),
    "open64" => ~w(EMFILE ENOMEM EPERM ENOSPC),
    "openat" => ~w(EMFILE ENOMEM EPERM ENOSPC),
    "read" => [{"ENOMEM", :file} | @receive],
    "write" => [{"ENOSPC", :file} | @send],
    "writev" => [{"ENOSPC", :file} | @send],
    "mkdir" => @path,
    "chmod" => @memory,
    "unlink" => @memory,
    "rmdir" => @memory,
    "rename" => @path,
    "dup" => ~w(EMFILE EPERM),
    "dup2" => ~w(EMFILE EINTR),
    "dup3" => ~w(EMFILE EINTR),
    "pipe2" => ~w(EMFILE ENOMEM),
    "socket" => @new,
    "socketpair" => @new,
    "bind" => ~w(ENOMEM ENOSPC EPERM),
    "listen" => ~w(ENOMEM),
    "accept" => ["EMFILE", "ENOMEM" | @receive],
    "accept4" => ["EMFILE", "ENOMEM" | @receive],
    "connect" => ["ENOMEM", "EPERM", "EAGAIN", {"EINTR", :blocking}],
    "send" => @send,
    "sendto" => @send,
    "sendmsg" => @send,
    "recv" => @receive,
    "recvfrom" => @receive,
    "recvmsg" => [{"ENOMEM", :any} | @receive],
    "setsockopt" => ~w(ENOMEM EPERM),
    "poll" => ~w(EINTR ENOMEM),
    "epoll_create1" => ~w(EMFILE ENOMEM),
    "epoll_ctl" => ~w(ENOMEM ENOSPC),
    "epoll_wait" => ~w(EINTR),
    "eventfd" => ~w(EMFILE ENOMEM),
    "signalfd" => ~w(EMFILE ENOMEM),
    "fork" => ~w(EAGAIN ENOMEM),
    "execvp" => ~w(ENOMEM EPERM),
    "setsid" => ~w(EPERM),
    "prctl" => ~w(EPERM),
    "setrlimit" => ~w(EPERM),
    "waitid" => ~w(EINTR),
    "waitpid" => ~w(EINTR),
    "killpg" => ~w(EPERM),
    "sigprocmask" => ~w(EPERM),
    "pthread_create" => ~w(EAGAIN EPERM)
  }

  @doc "The errors that a use of this function may meet: name, number, and the class of uses that may."
  @spec errors(String.t()) :: [{String.t(), pos_integer(), atom()}]
  def errors(function) do
    for error <- Map.get(@possible, function, []) do
      {name, class} = if is_tuple(error), do: error, else: {error, :any}
      {name, Map.fetch!(@errnos, name), class}
    end
  end
end
