# The medians of tests/bench-metadata as a table: etcd, torus, their ratio, and the bar where there is one. A bar is for the
# ratio (x) or for our own figure.

BEGIN {
  FS = "\t"
  bar["put-32/s"] = bar["put-128/s"] = bar["get-1/s"] = bar["get-32/s"] = bar["get-128/s"] = ">= 1.5 x"
  bar["put-1-p50-us"] = "<= 1.0 x"
  bar["failover-ms"] = "<= 1500"
  bar["resident-10k-MiB"] = "<= 60"
  bar["idle-percent"] = bar["idle-10k-percent"] = "<= 1"
  bar["resync-10k-1k-ms"] = bar["snapshot-10k-1k-ms"] = "<= 1000"
  bar["restart-10k-1k-ms"] = "<= 3000"
}

/^#/ { print substr($0, 3); print ""; next }
$1 == "system" { next }
{
  if (!($2 in seen)) { seen[$2]; figures[++count] = $2 }
  value[$1, $2] = $3
}

END {
  line = "%-26s %10s %10s %7s  %-9s %s\n"
  printf line, "figure", "etcd", "torus", "ratio", "bar", ""
  for (i = 1; i <= count; i++) {
    figure = figures[i]
    etcd = value["etcd", figure]; torus = value["torus", figure]
    ratio = (etcd + 0 > 0 && torus != "") ? sprintf("%.2f", torus / etcd) : ""
    verdict = ""
    if (figure in bar && torus != "") {
      split(bar[figure], part, " ")
      measured = part[3] == "x" ? ratio : torus
      verdict = (part[1] == ">=" ? measured + 0 >= part[2] + 0 : measured + 0 <= part[2] + 0) ? "met" : "MISSED"
    }
    printf line, figure, etcd, torus, ratio, bar[figure], verdict
  }
}
