# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a thread that rewrites rings, tables and headers while the device uses them: the other queues work
# driver: none
# needs: CONFIG_HUGETLBFS CONFIG_CRYPTO_USER_API_SKCIPHER
# device: --workers 2 --keyslots 8 --max-dun-bytes 8
# memory: 44M
# calm: 10
# check: fscrypt
# stat: events.broken_queue > 10

attack races calm "$(find_port progress)"
encrypted_files
