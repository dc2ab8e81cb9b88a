# The medians of tests/bench as a table to read: the systems of each job one below the other, each with its ratio to the
# reference. Columns: system, job, requests, IOPS, MiB/s, p50, p99, flush p50, flush p99, CPU, CPU of the client, memory.

BEGIN { FS = "\t"; reference = "qemu-nbd" }

/^#/ { print substr($0, 3); print ""; next }
$1 == "system" { next }
{
  if (!($1 in known)) { known[$1]; systems[++system_count] = $1 }
  if (!($2 in seen)) { seen[$2]; jobs[++job_count] = $2 }
  row[$1, $2] = $0
  iops[$1, $2] = $4
}

END {
  print "medians; times in us; CPU of all processes a request, and the client's part of it; MiB resident in servers"
  line = "%-20s %-9s %9s %8s %8s %8s %8s %8s %8s %7s %9s %7s\n"
  printf line, "job", "system", "IOPS", "MiB/s", "p50", "p99", "flush50", "flush99", "CPU", "client", "resident", "ratio"
  for (j = 1; j <= job_count; j++) {
    job = jobs[j]
    shown = job
    for (s = 1; s <= system_count; s++) {
      system_name = systems[s]
      if (!((system_name, job) in row)) continue
      split(row[system_name, job], f, FS)
      printf line, shown, system_name, sprintf("%.0f", f[4]), sprintf("%.1f", f[5]), f[6], f[7],
        (f[8] ? f[8] : "-"), (f[9] ? f[9] : "-"),
        sprintf("%.1f", f[10]), sprintf("%.1f", f[11]), f[12],
        (system_name == reference ? "" : sprintf("%.2f", iops[system_name, job] / iops[reference, job]))
      shown = ""
    }
  }
  job = "write-1m-qd8"
  for (s = 1; s <= system_count; s++)
    if (systems[s] != reference && systems[s] != "disk" && ("disk", job) in row)
      printf "%s, %s: %.2f of a third of the disk\n", systems[s], job, 3 * iops[systems[s], job] / iops["disk", job]
}
