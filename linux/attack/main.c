// SPDX-License-Identifier: GPL-2.0
/* /dev/flexattack: write a command, read a one-line result. "help" lists the commands. */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "attack.h"

#define COMMAND_MAX 65536
#define ANSWER_MAX 8192

static const struct attack *const groups[] = { cpu_attacks,   list_attacks, recall_attacks, call_attacks, board_attacks,
					       dma_attacks,   virtio_attacks, pci_attacks, npu_attacks, npu_call_attacks, move_attacks, answer_attacks, scan_attacks };
static DEFINE_MUTEX(lock);
static char answer[ANSWER_MAX];

void report(struct report *r, enum verdict verdict, const char *format, ...)
{
	va_list arguments;

	if (verdict < r->verdict)
		return;
	r->verdict = verdict;
	va_start(arguments, format);
	vscnprintf(r->text, sizeof(r->text), format, arguments);
	va_end(arguments);
}

static void help(void)
{
	size_t used = 0;
	unsigned int g;
	const struct attack *a;

	for (g = 0; g < ARRAY_SIZE(groups); g++)
		for (a = groups[g]; a->name; a++)
			used += scnprintf(answer + used, ANSWER_MAX - used, "%s: %s\n", a->name, a->help);
}

static const struct attack *find(const char *name)
{
	unsigned int g;
	const struct attack *a;

	for (g = 0; g < ARRAY_SIZE(groups); g++)
		for (a = groups[g]; a->name; a++)
			if (!strcmp(a->name, name))
				return a;
	return NULL;
}

static void run(char *command)
{
	static const char *const words[] = { "error", "blocked", "error", "BREACH" };
	struct report r = { .verdict = VERDICT_NONE, .text = "the attack gave no verdict" };
	char *arguments = strim(command);
	char *name = strsep(&arguments, " ");
	const struct attack *attack;

	if (!strcmp(name, "help")) {
		help();
		return;
	}
	attack = find(name);
	if (!attack) {
		scnprintf(answer, ANSWER_MAX, "error: no attack '%s'\n", name);
		return;
	}
	attack->run(&r, arguments ? arguments : "");
	scnprintf(answer, ANSWER_MAX, "%s: %s\n", words[r.verdict], r.text);
	pr_info("%s: %s", name, answer);
}

static ssize_t command_write(struct file *file, const char __user *user, size_t count, loff_t *position)
{
	char *command;

	if (count > COMMAND_MAX)
		return -E2BIG;
	command = memdup_user_nul(user, count);
	if (IS_ERR(command))
		return PTR_ERR(command);
	mutex_lock(&lock);
	run(command);
	mutex_unlock(&lock);
	kfree_sensitive(command);
	return count;
}

static ssize_t answer_read(struct file *file, char __user *user, size_t count, loff_t *position)
{
	ssize_t ret;

	mutex_lock(&lock);
	ret = simple_read_from_buffer(user, count, position, answer, strlen(answer));
	mutex_unlock(&lock);
	return ret;
}

static const struct file_operations attack_fops = {
	.owner = THIS_MODULE,
	.read = answer_read,
	.write = command_write,
	.llseek = default_llseek,
};

static struct miscdevice attack_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "flexattack",
	.fops = &attack_fops,
	.mode = 0600,
};

static int __init flexattack_init(void)
{
	int ret = guard_init();

	if (ret)
		return ret;
	ret = misc_register(&attack_device);
	if (ret)
		guard_exit();
	return ret;
}

/* Stays: its canaries are FLEX for ever, and their pages must not be taken for free ones. */
module_init(flexattack_init);

MODULE_DESCRIPTION("FlexServe: what a hostile kernel would try");
MODULE_LICENSE("GPL");
