# The rows of tests/bench in, one row a job and system out: the medians of its rounds, in the order of the first round.
# Lines with # stay as they are; of the header and the rows the first column, the round, is dropped.

BEGIN { FS = OFS = "\t" }

function median(list,  n, i, j, t, a) {
  n = split(list, a, " ")
  for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j-1] + 0 > a[j] + 0; j--) { t = a[j]; a[j] = a[j-1]; a[j-1] = t }
  return n % 2 ? a[(n+1)/2] : (a[n/2] + a[n/2+1]) / 2
}

/^#/ { print; next }
!columns { columns = NF; sub(/^[^\t]*\t/, ""); print; next }
{
  key = $2 OFS $3
  if (!(key in seen)) { seen[key]; keys[++count] = key }
  for (i = 4; i <= columns; i++) values[key, i] = values[key, i] " " $i
}

END {
  for (k = 1; k <= count; k++) {
    row = keys[k]
    for (i = 4; i <= columns; i++) row = row OFS median(values[keys[k], i])
    print row
  }
}
