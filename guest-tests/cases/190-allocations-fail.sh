# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: allocations of the driver fail at random under verified I/O, and while the disk is unbound and bound: nothing is lost
# needs: fio CONFIG_FAILSLAB CONFIG_FAULT_INJECTION_STACKTRACE_FILTER CONFIG_FAULT_INJECTION_DEBUG_FS
# device: --keyslots 4
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.replace > 0

# Allocations fail only with the driver on the stack. In virtio's code below it, too: indirect tables.
allocations_fail_case
