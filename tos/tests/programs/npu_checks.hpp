/* The NPU's system calls, for checks.cpp. */
#pragma once

void npu_use();        /* acquire, jobs good and bad, release, nothing left */
void npu_recall();     /* holds it past a recall */
void npu_exit();       /* ends with a job running */
void npu_take_turns(); /* as often as /data/npu-turns says, or 40 times, however Linux uses it meanwhile */
