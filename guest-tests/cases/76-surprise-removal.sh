# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the disk is pulled out under I/O and reads as all ones: its removal waits for nothing, and it works when it is back
# root-port: yes
# needs: fio
# stat: requests.crypto_out > 0

surprise_removal_case
